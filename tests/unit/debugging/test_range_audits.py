"""Range audits count what is clipped, by hand-computed numbers and whatever the batches are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.core.findings.diagnosis import Pattern
from autoquant.core.findings.range_audit import Clipping, RangeAudit, widths
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.statistics import TensorStatistics
from autoquant.debugging.diagnosis.grids import planned_grids
from autoquant.debugging.diagnosis.pattern import typical_limit_db
from autoquant.debugging.diagnosis.probe_set import build_probe
from autoquant.debugging.diagnosis.range_audit import audit_ranges
from autoquant.debugging.diagnosis.repairs import Repairs
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.data.batches import Batch
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounding import SchemeRounding
from tests.networks import LinearNet, seeded
from tests.unit.debugging.pairs import build

INT8 = Plan.of({"first": Scheme.INT8, "second": Scheme.INT8, "last": Scheme.INT8})


def inputs(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def audit(**changes: object) -> RangeAudit:
    """A tensor on [0, 255] in steps of 1, of which four samples and two channels were seen."""
    seen = TensorStatistics(
        low=0.0,
        high=255.0,
        histogram=np.ones(1, np.float32),
        histogram_low=0.0,
        histogram_high=255.0,
        channel_low=np.zeros(3, np.float32),
        channel_high=np.array([1.0, 2.0, 255.0], np.float32),
        sample_low=np.zeros(4, np.float32),
        sample_high=np.array([51.0, 51.0, 255.0, 51.0], np.float32),
    )
    clipping = Clipping(0.0, 300.0, 0.0, 0.0, worst=0, samples=4, elements=12)
    values = {
        "tensor": "t",
        "site": "op",
        "readers": ("next",),
        "low": 0.0,
        "high": 255.0,
        "step": 1.0,
        "seen": seen,
        "clipping": clipping,
    }
    return RangeAudit(**(values | changes))  # type: ignore[arg-type]


def test_ratios_are_those_of_the_ranges() -> None:
    found = audit()
    assert (found.excess, found.over_samples, found.over_channels) == (1.0, 5.0, 127.5)
    assert (found.wide_samples(), found.wide_channels()) == ((2,), (2,))


def test_clipping_is_measured_in_what_rounding_loses() -> None:
    """12 elements lose 12 / 12 by rounding in steps of 1."""
    clipping = Clipping(0.0, 300.0, energy=5.0, squares=13.0, worst=1, samples=4, elements=12)
    found = audit(clipping=clipping)
    assert found.clip_ratio == pytest.approx(5.0)
    assert found.clipping.effective_samples == pytest.approx(25.0 / 13.0)


@pytest.mark.parametrize(("energies", "samples"), [((1.0,) * 4, 4.0), ((4.0, 0, 0, 0), 1.0)])
def test_as_many_samples_are_clipped_as_share_the_energy(
    energies: tuple[float, ...], samples: float
) -> None:
    squares = sum(item**2 for item in energies)
    clipping = Clipping(0.0, 1.0, sum(energies), squares, worst=0, samples=4, elements=4)
    assert clipping.effective_samples == samples


def test_widths_hold_zero() -> None:
    assert widths([2.0, -1.0, -3.0], [5.0, 1.0, -2.0]).tolist() == [5.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("tensors", "levels", "limit"),
    [(10, 255, 20.0), (100, 255, 14.0), (100, 65535, 20.0), (1000, 255, 4.0)],
)
def test_the_limit_follows_the_number_and_the_levels_of_tensors(
    tensors: int, levels: int, limit: float
) -> None:
    assert typical_limit_db([Grid(1.0, 0, 0, levels)] * tensors) == pytest.approx(limit)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 9, 40])
def test_audits_do_not_depend_on_batches_and_are_those_of_all_samples_at_once(size: int) -> None:
    data = 3.0 * inputs(40, seed=2)
    built = build(seeded(LinearNet), inputs(40), INT8)
    marked = mark_sites(built.captured)
    grids = planned_grids(marked, INT8, SchemeRounding(built.ranges))
    batches = [Batch((part,)) for part in data.split(size)]
    found = {a.tensor: a for a in audit_ranges(marked, built.request.statistics, grids, batches)}
    beyond = (data - data.clamp(grids["x"].lowest, grids["x"].highest)).double().square()
    x = found["x"].clipping
    assert x.energy == pytest.approx(float(beyond.sum()))
    assert x.squares == pytest.approx(float(beyond.sum(1).square().sum()))
    assert (x.worst, x.samples, x.elements) == (int(beyond.sum(1).argmax()), 40, 640)
    assert (x.low, x.high) == pytest.approx((float(data.min()), float(data.max())))
    written = built.captured.writes("first")[0]
    assert (found["x"].site, found["x"].op, found[written].readers) == (None, "first", ("second",))


def test_the_error_by_reference_numerics_is_that_of_the_native_kernels() -> None:
    data = inputs(64)
    built = build(seeded(LinearNet), data, INT8, engine="fbgemm")  # hands its results out unrounded
    with using_engine("fbgemm"), torch.no_grad():
        native = built.model(data).double()
        expected = seeded(LinearNet)(data).double()
    writers = load_target("torch").integer_writers(built.request.settings)
    repairs = Repairs(mark_sites(built.captured), built.ranges, writers, INT8, Batch((data,)))
    noise = (native - expected).square().sum(1) / expected.square().sum(1)
    # kernels round a few ties the other way
    assert repairs.noise().median() == pytest.approx(float(noise.median()), rel=0.05)
    assert repairs.noise(raised=["first", "second", "last"]).max() < 1e-12
    read = built.captured.writes("first")[0]
    assert repairs.noise({read: None}).sum() < repairs.noise({read: Grid(1.0, 0, 0, 255)}).sum()


def test_few_bad_samples_are_judged_on_their_own() -> None:
    batches = [Batch((part,)) for part in inputs(20).split(6)]
    probe = build_probe(batches, 8, bad=[3, 17], pattern=Pattern.SENSITIVE)
    whole = inputs(20)
    assert {tuple(row.tolist()) for row in probe.batch.inputs[0][8:]} == {
        tuple(whole[3].tolist()),
        tuple(whole[17].tolist()),
    }
    noise = torch.tensor([0.1] * 8 + [0.5, 0.7])
    assert probe.loss(noise) == pytest.approx(0.6)
    typical = build_probe(batches, 8, bad=[], pattern=Pattern.INSENSITIVE)
    assert typical.loss(noise[:8]) == pytest.approx(0.1)
