"""Every node's time has one owner, and a profile knows every choice and every boundary."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.backends import cover
from autoquant.backends.boundaries import find_edges
from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.backends.torch_cpu.profile import Profile, attribute, profile_costs
from autoquant.backends.torch_cpu.stamps import NodeTimes
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.space import Knob, SearchSpace
from autoquant.core.statistics import ObserverName
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from tests.networks import MixedNet, images, seeded
from tests.spaces import full_space, random_plan

ENGINE = "onednn" if "onednn" in engines_here() else engines_here()[0]
SCHEMES = (Scheme.INT8, Scheme.BF16, Scheme.FP32)


class Residual(nn.Module):
    """Two readers of one tensor, and an add that reads two, behind an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.flatten(x + torch.relu(self.second(x)), 1)


def backend_of(model: nn.Module, captured: Capture) -> TorchGraphBackend:
    statistics = calibrate(captured, [(images(8),)], lambda count: None)
    settings = BuildSettings(options={"engine": ENGINE}, observer=ObserverName.MINMAX)
    given = (images(2),)
    return TorchGraphBackend(BuildRequest(model, captured, statistics, settings, given, given))


@pytest.fixture(scope="module")
def residual() -> tuple[Capture, TorchGraphBackend]:
    model = seeded(Residual)
    captured = capture(model, (images(2),))
    return captured, backend_of(model, captured)


def one_ms_each(model: GraphModule) -> NodeTimes:
    names = [n.name for n in model.graph.nodes if n.op not in ("placeholder", "output")]
    return NodeTimes(dict.fromkeys(names, 1.0), 0.5)


def build(backend: TorchGraphBackend, plan: Plan) -> GraphModule:
    module = backend.build(plan).module
    assert isinstance(module, LoweredModel)
    return module.graph


def test_edges_lead_from_writers_to_readers(residual: tuple[Capture, TorchGraphBackend]) -> None:
    captured, _ = residual
    assert set(find_edges(captured)) == {
        ("first", "second"),
        ("first", ":add:0"),
        ("second", ":add:0"),
    }


@pytest.mark.parametrize("seed", range(6))
def test_no_time_is_lost(residual: tuple[Capture, TorchGraphBackend], seed: int) -> None:
    captured, backend = residual
    plan = random_plan(full_space(captured, backend), seed, SCHEMES)
    module = build(backend, plan)
    times = one_ms_each(module)
    parts = attribute(module, times, captured)
    total = sum(parts.ops.values()) + sum(parts.edges.values()) + parts.rest
    assert total == pytest.approx(times.total)


def test_a_uniform_float_plan_has_no_boundaries(
    residual: tuple[Capture, TorchGraphBackend],
) -> None:
    captured, backend = residual
    plan = Plan.of({site.name: Scheme.FP32 for site in captured.sites})
    module = build(backend, plan)
    parts = attribute(module, one_ms_each(module), captured)
    assert not parts.edges
    # each reads a packed weight; the first reads the image, which is turned into channels last;
    # flatten hands its format on
    assert parts.ops == {"first": 3.0, "second": 2.0, ":add:0": 2.0}


def test_a_dequantize_for_two_readers_is_divided(
    residual: tuple[Capture, TorchGraphBackend],
) -> None:
    captured, backend = residual
    plan = Plan.of({"first": Scheme.INT8, "second": Scheme.FP32, ":add:0": Scheme.FP32})
    module = build(backend, plan)
    parts = attribute(module, one_ms_each(module), captured)
    dequantizes = [n for n in module.graph.nodes if "dequantize" in n.name]
    assert parts.edges["first", "second"] == parts.edges["first", ":add:0"]
    assert sum(parts.edges.values()) == len(dequantizes)


def test_quantize_belongs_to_the_edge_of_its_reader(
    residual: tuple[Capture, TorchGraphBackend],
) -> None:
    captured, backend = residual
    plan = Plan.of({"first": Scheme.FP32, "second": Scheme.INT8, ":add:0": Scheme.FP32})
    module = build(backend, plan)
    parts = attribute(module, one_ms_each(module), captured)
    assert parts.edges["first", "second"] == 1.0  # quantize, whose scale is part of it
    assert parts.edges["second", ":add:0"] == 1.0  # dequantize


@pytest.fixture(scope="module")
def profiled() -> tuple[SearchSpace, Capture, Profile]:
    model = seeded(MixedNet)
    captured = capture(model, (images(4),))
    backend = backend_of(model, captured)
    space = native_space(captured, backend)
    inputs = (images(4),)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cover, "_LEAST", 2)
            patch.setattr(cover, "_MOST", 6)
            profile = profile_costs(captured, backend, space, model, inputs, time.thread_time)
    finally:
        torch.set_num_threads(threads)
    return space, captured, profile


def native_space(captured: Capture, backend: TorchGraphBackend) -> SearchSpace:
    sites = {site.name: site for site in captured.sites}
    knobs = []
    for knob in full_space(captured, backend).knobs:
        schemes = tuple(
            scheme
            for scheme in knob.schemes
            if all(
                backend.support(sites[name], scheme) is Support.NATIVE
                for name in knob.sites
                if sites[name].follows is None
            )
        )
        knobs.append(Knob(knob.name, knob.sites, schemes))
    return SearchSpace(tuple(knobs))


@pytest.mark.slow
def test_every_choice_has_a_cost(profiled: tuple[SearchSpace, Capture, Profile]) -> None:
    space, _, profile = profiled
    for knob in space.knobs:
        for site in knob.sites:
            for scheme in knob.schemes:
                cost = profile.table.ops[site, scheme]
                assert math.isfinite(cost)
                assert cost >= 0.0


def test_every_boundary_has_a_cost_seen_or_not(
    profiled: tuple[SearchSpace, Capture, Profile],
) -> None:
    space, captured, profile = profiled
    schemes = {site: knob.schemes for knob in space.knobs for site in knob.sites}
    for edge in find_edges(captured):
        pairs = {(a, b) for a in schemes[edge[0]] for b in schemes[edge[1]]}
        assert set(profile.table.edges[edge]) == pairs
        assert all(math.isfinite(cost) for cost in profile.table.edges[edge].values())


def test_the_parts_make_up_the_whole(profiled: tuple[SearchSpace, Capture, Profile]) -> None:
    _, _, profile = profiled
    for plan, measured in profile.measured_ms.items():
        # of plans that were fitted, timed once, on a machine that may be busy
        assert profile.table.predict(plan) == pytest.approx(measured, rel=0.5)


def test_costs_over_knobs_are_those_over_sites(
    profiled: tuple[SearchSpace, Capture, Profile],
) -> None:
    space, _, profile = profiled
    plan = random_plan(space, 7)
    choices = Plan.of(space.choices(plan))
    by_knob = profile.table.by_knob(space)
    assert by_knob.predict(choices) == pytest.approx(profile.table.predict(plan))
