"""Each op takes the faster engine's kernel."""

from __future__ import annotations

import pytest

from autoquant.backends.torch_cpu.kernels import choose_kernels
from autoquant.backends.torch_cpu.profile import Profile
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme

PLAN = Plan.of({"conv": Scheme.INT8, "fc": Scheme.INT8})


def profile(conv: float, fc: float, baseline_ms: float) -> Profile:
    ops = {("conv", Scheme.INT8): conv, ("fc", Scheme.INT8): fc}
    edges = {("conv", "fc"): {(Scheme.INT8, Scheme.INT8): 0.5}}
    return Profile(CostTable(1.0, ops, edges), baseline_ms, {})


def test_the_faster_kernel_of_each_op_is_taken() -> None:
    chosen = choose_kernels(
        {"onednn": profile(2.0, 4.0, 10.0), "fbgemm": profile(3.0, 1.0, 10.0)}, PLAN
    )
    assert chosen.engines == {"conv": "onednn", "fc": "fbgemm"}
    assert chosen.single == {"onednn": pytest.approx(0.75), "fbgemm": pytest.approx(0.55)}
    assert chosen.cost == pytest.approx((1.0 + 2.0 + 1.0 + 0.5) / 10.0)


def test_costs_are_relative_to_the_float_model_of_their_own_profile() -> None:
    chosen = choose_kernels({"a": profile(2.0, 2.0, 10.0), "b": profile(3.0, 3.0, 20.0)}, PLAN)
    assert set(chosen.engines.values()) == {"b"}


def test_one_engine_is_a_choice_too() -> None:
    chosen = choose_kernels({"a": profile(2.0, 2.0, 10.0)}, PLAN)
    assert chosen.cost == chosen.single["a"]


def test_no_engine_is_none() -> None:
    with pytest.raises(ValueError, match="at least one"):
        choose_kernels({}, PLAN)
