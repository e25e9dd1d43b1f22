"""Calls are counted, and shared modules are judged by what a shared scale costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoquant.core.findings.concerns import Concern, Severity
from autoquant.core.findings.structure import ModuleCalls, Verdict
from autoquant.core.statistics import TensorStatistics
from autoquant.debugging.structure.calls import CallCounts, count_calls, find_uncalled, find_unused
from autoquant.debugging.structure.shared import bits_lost, compare_calls, largest_distance
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from tests import misbuilt as nets
from tests.networks import images, seeded
from tests.untraceable import TokenNet, tokens


def uniform(low: float, high: float, bins: int = 1000) -> TensorStatistics:
    """Values spread evenly between two bounds."""
    empty = np.zeros(0, np.float32)
    counts = np.ones(bins, np.float32)
    return TensorStatistics(low, high, counts, low, high, empty, empty, empty, empty)


def judged(model: nn.Module, inputs: Tensor) -> dict[str, ModuleCalls]:
    captured = capture(model, (inputs[:2],), how="export")
    rows = compare_calls(model, counted(model), captured, calibrate(captured, [(inputs,)]))
    return {row.path: row for row in rows}


def call(model: nn.Module) -> object:
    return model(images(2))


def counted(model: nn.Module) -> CallCounts:
    return count_calls(model, call)


def told(model: nn.Module, read: frozenset[str] | None = None) -> list[Concern]:
    counts = counted(model)
    return list(find_uncalled(model, counts, find_unused(model, counts, call, read)))


def test_a_module_is_never_once_or_several_times_called() -> None:
    counts = counted(nets.misbuilt(nets.Shared(1.0)))
    assert counts.calls == {"conv": 2, "act": 2, "spare": 0, "head": 1}


def test_an_instance_under_two_names_counts_once_with_all_its_calls() -> None:
    counts = counted(nets.misbuilt(nets.SharedBlock()))
    assert counts.calls["first"] == 3
    assert "second" not in counts.calls


def test_counting_leaves_no_hook_behind() -> None:
    model = nets.misbuilt(nets.Shared(1.0))
    first = counted(model)
    assert counted(model) == first


def test_a_module_whose_weight_a_function_reads_is_not_uncalled() -> None:
    model = nets.misbuilt(nets.FunctionalConv())
    counts = counted(model)
    assert counts.by_weight == {"conv"}
    (concern,) = told(model)
    assert concern.severity is Severity.NOTE


def test_what_is_never_called_is_named_at_its_outermost_module() -> None:
    model = nets.misbuilt(nets.Auxiliary())
    (concern,) = told(model)
    assert concern.where == ("aux",)
    assert "108 parameters" in concern.what  # 8 x 8 + 8 and 4 x 8 + 4
    assert concern.severity is Severity.ATTENTION


class Scripted(nn.Module):
    """A ScriptModule whose inner modules no hook sees, and a forward that is called by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.script = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
        self.direct = nn.Conv2d(4, 4, 1)
        self.guarded = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.guarded, nn.Linear)
        found: Tensor = self.direct.forward(self.script(x))
        return found


def test_what_runs_past_the_hooks_is_never_said_to_be_unused() -> None:
    model = Scripted().eval()
    before = model.state_dict()
    concerns = told(model)
    assert [item.severity for item in concerns if "never called in" in item.what] == []
    (unseen,) = [item for item in concerns if "not seen to be called" in item.what]
    assert "guarded" in unseen.where  # forward does not run without it
    assert unseen.severity is Severity.NOTE
    assert model.state_dict().keys() == before.keys()


def test_what_is_called_for_nothing_is_named_after_it_was_tried() -> None:
    model, ids = seeded(TokenNet), tokens(2)
    run = lambda changed: changed(ids)  # noqa: E731
    counts = count_calls(model, run)
    read = {name for name, _ in model.named_parameters() if not name.startswith(("unused", "head"))}
    unused = find_unused(model, counts, run, read)  # "head" is left out of what is read, wrongly
    assert (unused.never, unused.unseen, unused.unread) == ((), (), ("unused",))
    (concern,) = find_uncalled(model, counts, unused)
    assert "272 parameters" in concern.what  # 16 x 16 + 16


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


def test_calls_of_alike_outputs_may_share_a_scale_and_others_need_their_own() -> None:
    assert judged(nets.misbuilt(nets.Shared(1.2)), images(32))["conv"].verdict is Verdict.MAY_STAY
    row = judged(nets.misbuilt(nets.Shared(6.0)), images(32))["conv"]
    assert row.verdict is Verdict.APART
    assert row.bits_lost == pytest.approx(np.log2(6.0), abs=0.3)  # the bias does not grow


def test_a_shared_relu_keeps_no_scale_and_may_stay() -> None:
    assert judged(nets.misbuilt(nets.Shared(6.0)), images(8))["act"].verdict is Verdict.SCALELESS
