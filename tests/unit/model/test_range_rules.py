"""Observers by site and fixed ranges: what patterns mean, and that torch's own way agrees."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import FixedQParamsObserver
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from autoquant.api.result import BuildContext, ResultCandidate
from autoquant.backends.torch_cpu.backend import TorchCpuBackend, engine_settings
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.ranges import RangeRules
from autoquant.core.statistics import ObserverName
from autoquant.errors import JobError
from autoquant.job import Calibration
from autoquant.model.calibration import calibrate
from autoquant.model.calling import Calling
from autoquant.model.capture import Capture, capture
from autoquant.model.range_rules import bind_ranges
from autoquant.model.ranges.grid import Grid
from autoquant.model.ranges.tensor_ranges import TensorRanges
from autoquant.model.torch_ao.backend_config import backend_config
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.rounding import SchemeRounding
from tests.spaces import full_space

pytestmark = pytest.mark.filterwarnings("ignore")
ENGINE = "fbgemm"


class Car(nn.Module):
    """A speed of 0 to 200 and a camera image; a pool, and a sigmoid whose range is known."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 8, 3, padding=1)
        self.see_relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.feel = nn.Linear(1, 8)
        self.join = nn.Linear(8, 8)
        self.join_relu = nn.ReLU()
        self.steer = nn.Linear(8, 2)
        self.gate = nn.Sigmoid()

    def forward(self, image: Tensor, speed: Tensor) -> Tensor:
        seen = self.pool(self.see_relu(self.see(image))).mean((2, 3))
        return self.gate(self.steer(self.join_relu(self.join(seen + self.feel(speed)))))


def batch(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 8, 8, generator=draw), torch.rand(8, 1, generator=draw) * 60


BATCHES = [batch(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Car().eval()


@pytest.fixture(scope="module")
def captured(model: nn.Module) -> Capture:
    return capture(model, BATCHES[0])


@pytest.fixture(scope="module")
def exported(model: nn.Module) -> Capture:
    calling, tensors = Calling.of(BATCHES[0], model)
    return capture(model, tensors, how="export", calling=calling)


@pytest.fixture(params=["fx", "export"])
def either(request: pytest.FixtureRequest, captured: Capture, exported: Capture) -> Capture:
    return captured if request.param == "fx" else exported


def bind(captured: Capture, **section: Any) -> RangeRules:
    return bind_ranges(Calibration.model_validate(section), captured, BATCHES[0])


def test_later_patterns_win(either: Capture) -> None:
    rules = bind(either, sites={"*": "mse", "join": "kl", "s*": "minmax"})
    found = dict(rules.sites)
    assert found["join"] is ObserverName.KL
    assert found["see"] is ObserverName.MINMAX
    assert found["feel"] is ObserverName.MSE


def test_what_shares_a_scale_takes_the_rule_of_the_first(either: Capture) -> None:
    rules = bind(either, sites={"*": "mse", "see": "minmax"}, fixed_ranges={"see": [0, 8]})
    assert dict(rules.sites)["pool"] is ObserverName.MINMAX
    assert {item.name for item in rules.fixed} == {"see", "pool"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"sites": {"jion": "mse"}}, "sites: 'jion' matches nothing in this model; .*join"),
        ({"fixed_ranges": {"inputs.sped": [0, 1]}}, "matches nothing .*inputs.speed"),
        ({"sites": {"pool": "mse"}}, "'pool' changes nothing: .* shares the scale of 'see'"),
        ({"fixed_ranges": {"gate": [0, 2]}}, "'gate' changes nothing: the definition"),
    ],
    ids=["no-site", "no-input", "follower", "defined"],
)
def test_a_pattern_that_changes_nothing_is_refused(
    either: Capture, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        bind(either, **section)


def test_rules_survive_the_way_through_json(either: Capture) -> None:
    rules = bind(either, sites={"s*": "mse"}, fixed_ranges={"inputs.*": [-1, 200], "join": [0, 9]})
    assert RangeRules.from_json(rules.to_json()) == rules


def test_a_fixed_range_holds_for_what_the_site_writes_and_for_what_is_pooled(
    exported: Capture,
) -> None:
    section = {"see": [0, 100], "inputs.speed": [0, 200]}
    rules = bind(exported, fixed_ranges=section)
    statistics = calibrate(exported, BATCHES)
    ranges = TensorRanges(exported, statistics, BuildSettings(ranges=rules))
    assert ranges.int8_grid(exported.writes("see")[0]).highest == pytest.approx(100)
    assert ranges.int8_grid(exported.writes("pool")[0]).highest == pytest.approx(100)
    assert ranges.int8_grid(exported.reads("see")[0]).highest < 10
    assert ranges.int8_grid(exported.reads("feel")[0]).highest == pytest.approx(200)
    assert ranges.int16_grid(exported.reads("feel")[0]).highest == pytest.approx(200, rel=1e-4)
    assert next(item.reads for item in rules.fixed if item.name == "see") == (None,)


class Built:
    """The model with some rules, as candidates are built and as torch builds alone."""

    def __init__(self, model: nn.Module, captured: Capture, **section: Any) -> None:
        self.model, self.captured = model, captured
        self.rules = bind(captured, **section)
        self.statistics = calibrate(captured, BATCHES)
        self.settings = engine_settings(ENGINE, ObserverName.HISTOGRAM, True, self.rules)
        self.backend = TorchCpuBackend(captured, self.statistics, ENGINE, self.settings, BATCHES[0])

    def plan(self, scheme: Scheme, **changes: Scheme) -> Plan:
        plan = full_space(self.captured, self.backend).uniform(scheme)
        return Plan.of({**plan.schemes, **changes})

    def ours(self, plan: Plan) -> Tensor:
        found: Tensor = self.backend.run(self.backend.build(plan).module, BATCHES[1])
        return found

    def candidate(self, plan: Plan) -> ResultCandidate:
        context = BuildContext(
            sites=self.captured.sites,
            leaf_modules=(),
            statistics=self.statistics,
            build=BuildSettings(engine=ENGINE, reduce_range=True, ranges=self.rules),
            example=BATCHES[0],
            calling=self.captured.calling,
            dynamic=self.captured.dynamic,
            load=lambda: self.model,
        )
        return ResultCandidate(Candidate(0, plan, "test"), context)

    def theirs(self, plan: Plan, *, fix: bool) -> Tensor:
        """torch's own prepare, calibrate (or fix_scales) and convert."""
        candidate = self.candidate(plan)
        config = {"backend_config": backend_config()}
        mapping = candidate.qconfig_mapping()
        prepared = prepare_fx(copy.deepcopy(self.model), mapping, BATCHES[0], **config)
        for item in [] if fix else BATCHES:
            prepared(*item)
        if fix:
            candidate.fix_scales(prepared)
        return self.backend.run(convert_fx(prepared, **config), BATCHES[1])


def grids(built: Built, site: str, tensor: str) -> Grid:
    sites = {item.name: item for item in built.captured.sites}
    cache = ScaleCache(built.statistics, built.rules.fixed_tensors)
    found = SchemeRounding(sites, built.settings, cache).input_format(
        sites[site], Scheme.INT8, tensor
    )
    assert isinstance(found, Grid)
    return found


def test_a_fixed_range_of_an_op_is_carried_by_the_mapping(
    model: nn.Module, captured: Capture
) -> None:
    built = Built(model, captured, fixed_ranges={"join": [0, 20]}, sites={"feel": "mse"})
    plan = built.plan(Scheme.INT8)
    mapping = built.candidate(plan).qconfig_mapping()
    observer = mapping.module_name_qconfigs["join"].activation()
    assert isinstance(observer, FixedQParamsObserver)
    assert float(observer.scale) == pytest.approx(20 / 127)
    assert torch.equal(built.ours(plan), built.theirs(plan, fix=False))
    plain = Built(model, captured)
    assert not torch.equal(built.ours(plan), plain.ours(plan))


def test_a_fixed_range_of_an_op_does_not_reach_the_float_that_it_reads(
    model: nn.Module, captured: Capture
) -> None:
    built = Built(model, captured, fixed_ranges={"see": [0, 1000]})
    assert grids(built, "see", "image").highest < 10
    assert grids(built, "feel", "speed").highest > 50
    plan = built.plan(Scheme.INT8)
    with pytest.warns(UserWarning, match="cannot carry the fixed range of see"):
        mapping = built.candidate(plan).qconfig_mapping()
    observer = mapping.module_name_qconfigs["see"].activation()
    assert not isinstance(observer, FixedQParamsObserver)
    assert torch.equal(built.ours(plan), built.theirs(plan, fix=True))


def test_a_fixed_input_has_its_range_whatever_calibration_saw(
    model: nn.Module, captured: Capture
) -> None:
    built = Built(model, captured, fixed_ranges={"inputs.speed": [0, 200]})
    grid = grids(built, "feel", "speed")
    assert (grid.lowest, grid.highest) == (0.0, pytest.approx(200.0, rel=1e-6))
    assert grids(Built(model, captured), "feel", "speed").highest < 61
    plan = built.plan(Scheme.INT8)
    assert torch.equal(built.ours(plan), built.theirs(plan, fix=True))


@pytest.mark.parametrize("low", [5.0, -1.0])
def test_a_fixed_range_is_widened_to_hold_zero(
    model: nn.Module, captured: Capture, low: float
) -> None:
    built = Built(model, captured, fixed_ranges={"inputs.speed": [low, 200]})
    grid = grids(built, "feel", "speed")
    assert grid.lowest == pytest.approx(min(low, 0.0), abs=grid.scale)
    assert grid.highest == pytest.approx(200, abs=grid.scale)


def test_int16_takes_fixed_ranges_too(model: nn.Module, captured: Capture) -> None:
    built = Built(model, captured, fixed_ranges={"join": [0, 20], "inputs.speed": [0, 200]})
    plan = built.plan(Scheme.INT16)
    module = built.backend.build(plan).module
    scales = {round(float(item.scale), 9) for item in module.modules() if hasattr(item, "scale")}
    assert round(20 / 32767.5, 9) in scales
    assert round(200 / 32767.5, 9) in scales


@pytest.mark.parametrize("name", ["moving_average", "percentile", "kl", "mse"])
def test_an_observer_of_one_site_is_the_one_torch_uses_there(
    model: nn.Module, captured: Capture, name: str
) -> None:
    built = Built(model, captured, sites={"join": name})
    plan = built.plan(Scheme.INT8, feel=Scheme.FP32)
    assert torch.equal(built.ours(plan), built.theirs(plan, fix=False))
    assert torch.equal(built.ours(plan), built.theirs(plan, fix=True))
