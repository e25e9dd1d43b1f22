"""Each op takes the faster engine's kernel, and computes what that engine computes."""

from __future__ import annotations

import pytest
import torch

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.kernels import choose_kernels
from autoquant.backends.torch_cpu.options import Kernels
from autoquant.backends.torch_cpu.profile import Profile
from autoquant.core.build import BuildSettings
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import Site
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from tests.networks import MixedNet, images, seeded

ENGINES = ("fbgemm", "onednn")
needs_both = pytest.mark.skipif(
    not set(ENGINES) <= set(engines_here()), reason="this torch build lacks fbgemm or onednn"
)
Calibrated = tuple[Capture, CalibrationStatistics]


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    captured = capture(seeded(MixedNet), (images(2),))
    return captured, calibrate(captured, [(images(8),)])


def profile(costs: dict[str, float], baseline_ms: float) -> Profile:
    ops = {(site, Scheme.INT8): cost for site, cost in costs.items()}
    return Profile(CostTable(1.0, ops, {}), baseline_ms, {})


def weighted(captured: Capture) -> list[Site]:
    return [site for site in captured.sites if site.kind.is_weighted]


def backend_of(calibrated: Calibrated, engine: str, kernels: Kernels) -> TorchGraphBackend:
    captured, statistics = calibrated
    settings = BuildSettings(
        observer=ObserverName.MINMAX, options={"engine": engine, "kernels": kernels.to_json()}
    ).with_weight_bits(8)
    given = (images(2),)
    return TorchGraphBackend(
        BuildRequest(seeded(MixedNet), captured, statistics, settings, given, given)
    )


def int8_plan(calibrated: Calibrated) -> Plan:
    backend = backend_of(calibrated, ENGINES[0], Kernels())
    return Plan.of(
        {
            site.name: Scheme.INT8
            if backend.support(site, Scheme.INT8) is Support.NATIVE
            else Scheme.FP32
            for site in calibrated[0].sites
        }
    )


def test_the_faster_kernel_of_each_op_is_taken(calibrated: Calibrated) -> None:
    first, second = (site.name for site in weighted(calibrated[0])[:2])
    chosen = choose_kernels(
        {
            "onednn": profile({first: 2.0, second: 4.0}, 10.0),
            "fbgemm": profile({first: 3.0, second: 1.0}, 10.0),
        },
        calibrated[0].sites,
    )
    plan = Plan.of({first: Scheme.INT8, second: Scheme.INT8})
    assert chosen.of(plan) == {first: "onednn", second: "fbgemm"}
    assert chosen.of(Plan.of({first: Scheme.FP32, second: Scheme.INT8})) == {second: "fbgemm"}


def test_costs_are_relative_to_the_float_model_of_their_own_profile(
    calibrated: Calibrated,
) -> None:
    name = weighted(calibrated[0])[0].name
    chosen = choose_kernels(
        {"a": profile({name: 2.0}, 10.0), "b": profile({name: 3.0}, 20.0)}, calibrated[0].sites
    )
    assert chosen.counts() == {"b": 1}


def test_an_engine_that_does_not_run_an_op_is_not_taken(calibrated: Calibrated) -> None:
    first, second = (site.name for site in weighted(calibrated[0])[:2])
    chosen = choose_kernels(
        {"a": profile({first: 9.0}, 1.0), "b": profile({second: 1.0}, 1.0)}, calibrated[0].sites
    )
    assert sorted(engine for _, _, engine in chosen.choices) == ["a", "b"]


def test_kernels_survive_json() -> None:
    kernels = Kernels((("conv", Scheme.INT8, "onednn"), ("fc", Scheme.INT8_DYNAMIC, "fbgemm")))
    assert Kernels.from_json(kernels.to_json()) == kernels


@needs_both
def test_all_ops_packed_for_the_other_engine_compute_what_it_computes(
    calibrated: Calibrated,
) -> None:
    plan = int8_plan(calibrated)
    all_other = Kernels(tuple((site, Scheme.INT8, "onednn") for site, _ in plan.assignment))
    own = backend_of(calibrated, "onednn", Kernels())
    mixed = backend_of(calibrated, "fbgemm", all_other)
    base = backend_of(calibrated, "fbgemm", Kernels())
    inputs = (images(64),)
    expected = own.run(own.build(plan).module, inputs)
    found = mixed.run(mixed.build(plan).module, inputs)
    assert torch.equal(found, expected)
    # engines round differently here and there; were they equal, the line above would say nothing
    assert not torch.equal(found, base.run(base.build(plan).module, inputs))
