"""Observers by site and fixed ranges: what patterns mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoquant.core.build import BuildSettings
from autoquant.core.ranges import RangeRules
from autoquant.core.statistics import ObserverName
from autoquant.errors import JobError
from autoquant.job import Calibration
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.range_rules import bind_ranges
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.calling import Calling
from autoquant.model.graph.capture import Capture, capture

pytestmark = pytest.mark.filterwarnings("ignore")


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
    calling, tensors = Calling.of(BATCHES[0], model)
    return capture(model, tensors, how="export", calling=calling)


def bind(captured: Capture, **section: Any) -> RangeRules:
    return bind_ranges(Calibration.model_validate(section), captured, {})


def test_later_patterns_win(captured: Capture) -> None:
    rules = bind(captured, sites={"*": "mse", "join": "kl", "s*": "minmax"})
    found = dict(rules.sites)
    assert found["join"] is ObserverName.KL
    assert found["see"] is ObserverName.MINMAX
    assert found["feel"] is ObserverName.MSE


def test_what_shares_a_scale_takes_the_rule_of_the_first(captured: Capture) -> None:
    rules = bind(captured, sites={"*": "mse", "see": "minmax"}, fixed_ranges={"see": [0, 8]})
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
    captured: Capture, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        bind(captured, **section)


def test_a_range_of_the_target_holds_where_the_job_fixes_none(captured: Capture) -> None:
    """A sigmoid keeps the range of its definition; what is pooled shares the scale."""
    of_target = {"see": (0.0, 6.0), "join": (0.0, 6.0), "gate": (0.0, 2.0)}
    calibration = Calibration.model_validate({"fixed_ranges": {"join": [0, 9]}})
    found = {item.name: item for item in bind_ranges(calibration, captured, of_target).fixed}
    ends = {name: (item.low, item.high, item.is_job) for name, item in found.items()}
    assert ends == {"see": (0, 6, False), "pool": (0, 6, False), "join": (0, 9, True)}


def test_rules_survive_the_way_through_json(captured: Capture) -> None:
    fixed = {"inputs.*": [-1, 200], "join": [0, 9]}
    rules = bind(captured, sites={"s*": "mse"}, fixed_ranges=fixed)
    assert RangeRules.from_json(rules.to_json()) == rules


def test_a_fixed_range_holds_for_what_the_site_writes_and_for_what_is_pooled(
    captured: Capture,
) -> None:
    section = {"see": [0, 100], "inputs.speed": [0, 200]}
    rules = bind(captured, fixed_ranges=section)
    statistics = calibrate(captured, BATCHES)
    ranges = TensorRanges(captured, statistics, BuildSettings(ranges=rules))
    assert ranges.int8_grid(captured.writes("see")[0]).highest == pytest.approx(100)
    assert ranges.int8_grid(captured.writes("pool")[0]).highest == pytest.approx(100)
    assert ranges.int8_grid(captured.reads("see")[0]).highest < 10
    assert ranges.int8_grid(captured.reads("feel")[0]).highest == pytest.approx(200)
    assert ranges.int16_grid(captured.reads("feel")[0]).highest == pytest.approx(200, rel=1e-4)
    assert next(item.reads for item in rules.fixed if item.name == "see") == (None,)


@pytest.mark.parametrize("low", [5.0, -1.0])
def test_a_fixed_range_is_widened_to_hold_zero(captured: Capture, low: float) -> None:
    rules = bind(captured, fixed_ranges={"inputs.speed": [low, 200]})
    ranges = TensorRanges(captured, calibrate(captured, BATCHES), BuildSettings(ranges=rules))
    grid = ranges.int8_grid(captured.reads("feel")[0])
    assert grid.lowest == pytest.approx(min(low, 0.0), abs=grid.scale)
    assert grid.highest == pytest.approx(200, abs=grid.scale)


@pytest.mark.parametrize("name", ["moving_average", "percentile", "kl", "mse"])
def test_an_observer_of_one_site_is_of_its_own_tensor_alone(captured: Capture, name: str) -> None:
    statistics = calibrate(captured, BATCHES)
    rules = bind(captured, sites={"join": name})
    ruled = TensorRanges(captured, statistics, BuildSettings(ranges=rules))
    whole = BuildSettings(observer=ObserverName(name), ranges=bind(captured))
    everywhere = TensorRanges(captured, statistics, whole)
    plain = TensorRanges(captured, statistics, BuildSettings(ranges=bind(captured)))
    (join,), (feel,) = captured.writes("join"), captured.writes("feel")
    assert ruled.int8_grid(join) == everywhere.int8_grid(join) != plain.int8_grid(join)
    assert ruled.int8_grid(feel) == plain.int8_grid(feel)
