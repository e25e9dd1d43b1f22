"""Calls are counted, and shared modules are judged by what a shared scale costs."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor, nn

from autoquant.analysis.structure.calls import count_calls, find_uncalled
from autoquant.analysis.structure.shared import bits_lost, compare_calls, largest_distance
from autoquant.analysis.structure.torn import fused_differently
from autoquant.core.concerns import Severity
from autoquant.core.statistics import TensorStatistics
from autoquant.core.structure import ModuleCalls, Verdict
from autoquant.model.calibration import calibrate
from autoquant.model.capture import capture
from autoquant.model.torch_ao.tracing import trace_unfused
from tests import misbuilt as nets
from tests.networks import images


def uniform(low: float, high: float, bins: int = 1000) -> TensorStatistics:
    """Values spread evenly between two bounds."""
    empty = np.zeros(0, np.float32)
    counts = np.ones(bins, np.float32)
    return TensorStatistics(low, high, counts, low, high, empty, empty, empty, empty)


def judged(model: nn.Module, inputs: Tensor) -> dict[str, ModuleCalls]:
    captured = capture(model, (inputs[:2],))
    rows = compare_calls(
        model,
        count_calls(model, (inputs[:2],)),
        trace_unfused(model).module,
        captured.graph,
        calibrate(captured, [(inputs,)]),
    )
    return {row.path: row for row in rows}


def test_a_module_is_never_once_or_several_times_called() -> None:
    counts = count_calls(nets.misbuilt(nets.Shared(1.0)), (images(2),))
    assert counts.calls == {"conv": 2, "act": 2, "spare": 0, "head": 1}


def test_an_instance_under_two_names_counts_once_with_all_its_calls() -> None:
    counts = count_calls(nets.misbuilt(nets.SharedBlock()), (images(2),))
    assert counts.calls["first"] == 3
    assert "second" not in counts.calls


def test_counting_leaves_no_hook_behind() -> None:
    model = nets.misbuilt(nets.Shared(1.0))
    first = count_calls(model, (images(2),))
    assert count_calls(model, (images(2),)) == first


def test_a_module_whose_weight_a_function_reads_is_not_uncalled() -> None:
    model = nets.misbuilt(nets.FunctionalConv())
    counts = count_calls(model, (images(2),))
    assert counts.by_weight == {"conv"}
    (concern,) = find_uncalled(model, counts)
    assert concern.severity is Severity.NOTE


def test_what_is_never_called_is_named_at_its_outermost_module() -> None:
    model = nets.misbuilt(nets.Auxiliary())
    (concern,) = find_uncalled(model, count_calls(model, (images(2),)))
    assert concern.where == ("aux",)
    assert "108 parameters" in concern.what  # 8 x 8 + 8 and 4 x 8 + 4
    assert concern.severity is Severity.ATTENTION


def test_the_narrowest_call_loses_the_logarithm_of_the_ranges() -> None:
    assert bits_lost([uniform(0, 8), uniform(0, 1)]) == pytest.approx(3.0, abs=1e-6)
    # ranges hold zero: [1, 2] needs the grid of [0, 2]
    assert bits_lost([uniform(1, 2), uniform(0, 2)]) == pytest.approx(0.0, abs=1e-2)
    # the joint range is wider than either
    assert bits_lost([uniform(-1, 0), uniform(0, 1)]) == pytest.approx(1.0, abs=1e-6)


def test_a_call_that_gives_nothing_but_zero_loses_nothing() -> None:
    assert bits_lost([uniform(0, 0), uniform(0, 5)]) == 0.0


def test_the_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    assert largest_distance([uniform(0, 1), uniform(0, 1)]) == pytest.approx(0.0)
    assert largest_distance([uniform(0, 1), uniform(2, 3)]) == pytest.approx(1.0)
    # F1(x) = x on [0, 1], F2(x) = x / 4 on [0, 4]: farthest apart at 1
    assert largest_distance([uniform(0, 1), uniform(0, 4)]) == pytest.approx(0.75, abs=1e-6)


def test_calls_of_alike_outputs_may_stay_and_others_must_be_split() -> None:
    assert judged(nets.misbuilt(nets.Shared(1.2)), images(32))["conv"].verdict is Verdict.MAY_STAY
    row = judged(nets.misbuilt(nets.Shared(6.0)), images(32))["conv"]
    assert row.verdict is Verdict.MUST_SPLIT
    assert row.bits_lost == pytest.approx(np.log2(6.0), abs=0.3)  # the bias does not grow


def test_a_shared_relu_keeps_no_scale_and_may_stay() -> None:
    assert judged(nets.misbuilt(nets.Shared(6.0)), images(8))["act"].verdict is Verdict.SCALELESS


def test_a_module_with_another_norm_at_each_call_must_be_split_whatever_its_ranges() -> None:
    model = nets.misbuilt(nets.SharedBehindNorms())
    assert list(fused_differently(trace_unfused(model).module)) == ["conv"]
    assert judged(model, images(8))["conv"].verdict is Verdict.MUST_SPLIT


def test_a_module_with_the_same_relu_at_each_call_is_fused_alike() -> None:
    model = nets.misbuilt(nets.Shared(6.0))
    assert list(fused_differently(trace_unfused(model).module)) == []
