"""Sensitivity rows against real candidates with one knob quantized."""

from __future__ import annotations

import random

import pytest

from autoquant.analysis.exact import measure_exact
from autoquant.analysis.trials import Question
from autoquant.backends.torch_cpu.backend import TorchCpuBackend, engine_settings
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityTable
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import ObserverName
from autoquant.model.batches import Batch
from autoquant.model.calibration import calibrate
from autoquant.model.capture import capture
from autoquant.model.output_noise import signal_to_noise_db
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.rounding import SchemeRounding
from tests.networks import MixedNet, images, seeded
from tests.spaces import full_space

EXAMPLE = images(32, seed=5)
Measured = tuple[SensitivityTable, SearchSpace, TorchCpuBackend]


@pytest.fixture(scope="module")
def measured() -> Measured:
    captured = capture(seeded(MixedNet), (EXAMPLE,))
    statistics = calibrate(captured, [(images(32, seed),) for seed in range(3)])
    settings = engine_settings("fbgemm", ObserverName.HISTOGRAM)
    backend = TorchCpuBackend(captured, statistics, "fbgemm", settings, (EXAMPLE,))
    space = full_space(captured, backend)
    sites = {site.name: site for site in captured.sites}
    rounding = SchemeRounding(sites, settings, ScaleCache(statistics))
    table = measure_exact(Question(captured, space, rounding, [Batch((EXAMPLE,))], 32))
    return table, space, backend


def test_each_row_predicts_the_engine_with_that_knob_alone(measured: Measured) -> None:
    table, space, backend = measured
    expected = backend.run(seeded(MixedNet), (EXAMPLE,)).double()
    base = {knob.name: Scheme.FP32 for knob in space.knobs}
    rows = [row for row in table.rows if row.part is Part.BOTH]
    assert len(rows) > 50
    for row in random.Random(0).sample(rows, 16):
        plan = space.plan({**base, row.knob: row.scheme})
        outputs = backend.run(backend.build(plan).module, (EXAMPLE,)).double()
        real, _ = signal_to_noise_db(
            (expected**2).sum(1).numpy(), ((expected - outputs) ** 2).sum(1).numpy()
        )
        # most agree to 0.1 dB; quantized activations round through tables of their own
        assert row.sqnr_db == pytest.approx(real, abs=1.5), (row.knob, row.scheme)


def test_weights_and_activations_apart_are_each_gentler_than_both(measured: Measured) -> None:
    table, _, _ = measured
    rows = {(row.knob, row.scheme, row.part): row for row in table.rows}
    both = rows["stem", Scheme.INT8, Part.BOTH]
    weight = rows["stem", Scheme.INT8, Part.WEIGHT]
    activation = rows["stem", Scheme.INT8, Part.ACTIVATION]
    assert weight.noise < both.noise
    assert activation.noise < both.noise
    # two independent roundings add their power; a factor of two is far outside that
    assert weight.noise + activation.noise == pytest.approx(both.noise, rel=0.5)


def test_more_bits_are_never_much_worse(measured: Measured) -> None:
    table, space, _ = measured
    losses = table.losses()
    for knob in space.free:
        if Scheme.INT16 in knob.schemes:
            assert losses[knob.name, Scheme.INT16] <= losses[knob.name, Scheme.INT8] * 1.05


def test_the_ranking_puts_the_most_sensitive_knob_first(measured: Measured) -> None:
    table, _, _ = measured
    noises = [row.noise for row in table.ranking(Scheme.INT8)]
    assert noises == sorted(noises, reverse=True)
