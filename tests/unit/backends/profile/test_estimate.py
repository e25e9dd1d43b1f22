"""Estimates against figures computed by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from autoquant.backends.profile.estimate import Estimator
from autoquant.backends.profile.reading import read_accelerator
from autoquant.backends.profile.support import find_schemes
from autoquant.backends.profile.traffic import find_traffic
from autoquant.core.build import BuildSettings
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import BackendError
from autoquant.model.graph.capture import Capture, capture

BATCH = 2
CONVERSION = {"elements_per_second": 1e3, "fixed_us": 100_000}
CHIP: dict[str, Any] = {
    "name": "chip",
    "source": "a test",
    "call_us": 1_000_000,  # a second: figures in ms below are easy to read
    "launch_us": 1000,
    "bandwidth": {"weights": 1000, "activations": 1000},
    "depthwise_share": 0.5,
    "throughput": {
        "int8": {"linear": 1000, "conv2d": 1000, "add": 10, "activation": "fused", "pool": 10},
        "int16_weight": {"linear": 1000},
        "fp16": {"linear": 10, "conv2d": 10, "add": 10, "activation": 10, "pool": 10},
    },
    "conversions": {"int8": {"fp16": CONVERSION}, "fp16": {"int8": CONVERSION | {"fixed_us": 0}}},
}


class Residual(nn.Module):
    """Two linear layers, an add, an activation that follows it; a tanh of no site's input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return F.hardswish(x + self.second(x))


@cache
def captured_model() -> Capture:
    return capture(Residual().eval(), (torch.ones(BATCH, 4),))


def all_fp16() -> Plan:
    return Plan.of({site.name: Scheme.FP16 for site in captured_model().sites})


def activation() -> str:
    return captured_model().sites[-1].name


def table_of(
    captured: Capture, chip: dict[str, Any], batch: int = BATCH, example: int = BATCH
) -> CostTable:
    accelerator = read_accelerator(yaml.safe_dump(chip))
    schemes = find_schemes(accelerator, BuildSettings(), captured.sites)
    estimator = Estimator(accelerator, captured, find_traffic(captured), example)
    return estimator.table(schemes, batch)


def test_an_op_takes_its_arithmetic_or_its_traffic_and_a_launch() -> None:
    ops = table_of(captured_model(), CHIP).ops
    # fp16: 2 samples * 32 MACs at 10 a second: 6400 ms; the traffic is shorter
    assert ops["first", Scheme.FP16] == pytest.approx(6400 + 1)
    # int8: 32 weights of 1 byte, 8 biases of 4, (8 + 16) activations of 1 byte: 88 bytes at 1000 a
    # second: 88 ms; the arithmetic takes 64
    assert ops["first", Scheme.INT8] == pytest.approx(88 + 1)
    # weights of 2 bytes: 32 bytes more
    assert ops["first", Scheme.INT16_WEIGHT] == pytest.approx(120 + 1)
    # an add of 16 elements at 10 a second
    assert ops[":add:0", Scheme.INT8] == pytest.approx(1600 + 1)
    assert ops[activation(), Scheme.INT8] == 0  # fused


def test_a_boundary_is_paid_by_each_reader_and_by_direction() -> None:
    edges = table_of(captured_model(), CHIP).edges
    pairs = edges["first", "second"]
    assert pairs[Scheme.INT8, Scheme.FP16] == pytest.approx(16 + 100)  # 16 elements and 100 ms
    assert pairs[Scheme.FP16, Scheme.INT8] == pytest.approx(16)
    assert (Scheme.INT8, Scheme.INT16_WEIGHT) not in pairs  # both have int8 activations
    assert edges["first", ":add:0"] == {
        key: cost for key, cost in pairs.items() if key[1] is not Scheme.INT16_WEIGHT
    }


def test_a_plan_costs_the_call_its_ops_and_its_boundaries() -> None:
    plan = Plan.of(dict(all_fp16().assignment) | {"second": Scheme.INT8})
    table = table_of(captured_model(), CHIP)
    first, add, activation = 6401, 1601, 1601
    second = 2 * 64 + 1  # 128 MACs at 1000 a second: 128 ms; 64 + 32 + 32 bytes take as long
    assert table.predict(plan) == pytest.approx(
        1000 + first + second + add + activation + 16 + (16 + 100)
    )


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_arithmetic_and_activations_grow_with_the_batch(batch: int) -> None:
    ops = table_of(captured_model(), CHIP, batch).ops
    assert ops["first", Scheme.FP16] == pytest.approx(3200 * batch + 1)
    assert ops["first", Scheme.INT8] == pytest.approx(max(32 * batch, 64 + 12 * batch) + 1)


def test_a_measured_time_overrides_the_rates_and_the_last_one_wins() -> None:
    measured = [
        {"kind": "linear", "scheme": "int8", "ms": 7},
        {"site": "sec*", "scheme": "int8", "ms": 9},
        {"kind": "add", "site": "first", "scheme": "int8", "ms": 11},
    ]
    table = table_of(captured_model(), CHIP | {"measured": {"batch": BATCH, "ops": measured}})
    assert table.ops["first", Scheme.INT8] == 7
    assert table.ops["second", Scheme.INT8] == 9
    assert table.ops["first", Scheme.FP16] == pytest.approx(6401)


def test_measured_times_alone_describe_an_accelerator() -> None:
    ops = [{"site": "*", "scheme": "int8", "ms": 3}]
    chip = {"name": "chip", "source": "a test", "launch_us": 1}
    table = table_of(captured_model(), chip | {"measured": {"batch": BATCH, "ops": ops}})
    assert set(table.ops.values()) == {3}


def test_measured_times_of_another_batch_are_refused() -> None:
    measured = {"batch": 1, "ops": [{"kind": "linear", "scheme": "int8", "ms": 7}]}
    with pytest.raises(BackendError, match=r"measured\.batch is 1, but a call has 2 samples"):
        table_of(captured_model(), CHIP | {"measured": measured})


def test_formats_outside_are_paid_by_the_sites_that_touch_them() -> None:
    chip = CHIP | {
        "outside": "fp32",
        "conversions": {
            before: {after: CONVERSION for after in ("int8", "fp16", "fp32") if after != before}
            for before in ("int8", "fp16", "fp32")
        },
    }
    plain, table = table_of(captured_model(), CHIP), table_of(captured_model(), chip)
    extra = {key: cost - plain.ops[key] for key, cost in table.ops.items()}
    assert extra["first", Scheme.INT8] == pytest.approx(100 + 8)  # it reads 8 elements
    assert extra[activation(), Scheme.FP16] == pytest.approx(100 + 16)  # it writes 16
    assert extra["second", Scheme.INT8] == extra[":add:0", Scheme.INT8] == 0


def test_a_depthwise_convolution_reaches_its_share_of_the_rate() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 4, 1, groups=2)).eval()
    captured = capture(model, (torch.ones(1, 4, 4, 4),))
    ops = table_of(captured, CHIP, batch=1, example=1).ops
    # 64 positions' worth of MACs at 10 a second, halved; 128 at the full rate
    assert ops["0", Scheme.FP16] == pytest.approx(64 / 5 * 1000 + 1)
    assert ops["1", Scheme.FP16] == pytest.approx(128 / 10 * 1000 + 1)


class Elsewhere(nn.Module):
    """An op of no site between two sites."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sin(self.first(x)))


def test_ops_of_no_site_are_found_with_the_tensors_that_they_touch() -> None:
    traffic = find_traffic(capture(Elsewhere().eval(), (torch.ones(BATCH, 4),)))
    assert traffic.unlisted == ("sin",)
    assert traffic.between == {}
    assert traffic.read_from_outside == {"first": [8], "second": [16]}
    assert traffic.written_outside == {"first": [16], "second": [16]}


def test_a_kind_that_follows_must_be_described_where_its_leader_is() -> None:
    chip = yaml.safe_load(yaml.safe_dump(CHIP))
    del chip["throughput"]["fp16"]["activation"]
    with pytest.raises(BackendError, match=r"throughput\.fp16\.activation: is missing.*:add:0"):
        table_of(captured_model(), chip)


def test_a_model_with_a_kind_that_is_nowhere_described_is_refused() -> None:
    chip = yaml.safe_load(yaml.safe_dump(CHIP))
    for rates in chip["throughput"].values():
        rates.pop("add", None)
    with pytest.raises(BackendError, match=r"\.add: is missing, and :add:0"):
        table_of(captured_model(), chip)


def with_functions(**functions: Any) -> dict[str, Any]:
    return CHIP | {"functions": functions}


def test_a_function_runs_within_the_kinds_of_op_that_it_is_fused_into() -> None:
    """The hardswish follows the add; elsewhere it takes the time of its kind."""
    apart = table_of(captured_model(), with_functions(hardswish={"fused_into": ["linear"]})).ops
    within = table_of(
        captured_model(), with_functions(hardswish={"fused_into": ["linear", "add"]})
    ).ops
    assert apart[activation(), Scheme.FP16] > 0
    assert within[activation(), Scheme.FP16] == 0
    assert within[":add:0", Scheme.FP16] == apart[":add:0", Scheme.FP16]


def test_an_op_whose_follower_does_not_run_a_scheme_does_not_take_it() -> None:
    accelerator = read_accelerator(yaml.safe_dump(with_functions(Hardswish={"schemes": ["fp16"]})))
    schemes = find_schemes(accelerator, BuildSettings(), captured_model().sites)
    assert schemes["first"] == (Scheme.INT8, Scheme.INT16_WEIGHT, Scheme.FP16)
    assert schemes[":add:0"] == schemes[activation()] == (Scheme.FP16,)


def test_a_follower_that_would_leave_the_integers_for_fp32_is_refused() -> None:
    """Its way there and back is in no estimate."""
    rates = CHIP["throughput"] | {"fp32": CHIP["throughput"]["fp16"]}
    to_fp32 = {name: {**row, "fp32": CONVERSION} for name, row in CHIP["conversions"].items()}
    ways = to_fp32 | {"fp32": {"int8": CONVERSION, "fp16": CONVERSION}}
    chip = with_functions(hardswish={"schemes": ["fp16", "fp32"]})
    chip |= {"throughput": rates, "conversions": ways}
    with pytest.raises(BackendError, match=r"functions.hardswish.schemes: int8: is missing"):
        table_of(captured_model(), chip)
