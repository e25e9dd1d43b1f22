"""A search that is cut off anywhere ends as if it had not been."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoquant.core.costs import CostTable
from autoquant.core.evaluation import Outcome, Phase, Task
from autoquant.core.measurement import Candidate, Failure, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import ExecutionError
from autoquant.job import Budget, Constraints
from autoquant.searching.constraints import Limits
from autoquant.searching.cost_model import CostModel
from autoquant.searching.forecast import Forecast
from autoquant.searching.gate import Gate
from autoquant.searching.guided import CostAxis, Guide
from autoquant.searching.rounds import History, Rounds, StopReason
from autoquant.searching.samplers import GUIDED, SAMPLERS
from autoquant.searching.seeds import seed_plans
from autoquant.searching.strategy import Strategy

SCHEMES = (Scheme.INT8, Scheme.INT16, Scheme.FP16, Scheme.FP32)
NOISE = {8: 1.0, 16: 0.1, 32: 0.0}


def space_of(knobs: int) -> SearchSpace:
    return SearchSpace(tuple(Knob(f"k{i}", (f"k{i}",), SCHEMES) for i in range(knobs)))


def table_of(space: SearchSpace) -> SensitivityTable:
    return SensitivityTable(
        tuple(
            SensitivityRow(
                knob.name, scheme, Part.BOTH, 0, 0, 0, 0, 0, (i + 1) * NOISE[scheme.weight.bits], 0
            )
            for i, knob in enumerate(space.knobs)
            for scheme in SCHEMES
        ),
        "made up",
        1,
    )


def guide_of(space: SearchSpace) -> Guide:
    """Proposals from models that know the truth but for a few percent."""
    noise = {
        (k.name, s): (int(k.name[1:]) + 1) * (NOISE[s.weight.bits] + 1e-3)
        for k in space.knobs
        for s in k.schemes
    }
    cost = {
        (k.name, s): s.activation.bits * (1.0 + int(k.name[1:]) % 3)
        for k in space.knobs
        for s in k.schemes
    }
    axis = CostAxis(Objective.BOPS, CostTable(0.0, cost))
    return Guide(space, CostModel(CostTable(0.0, noise)), axis)


class CutOffError(Exception):
    """Stands for the controller's death."""


class Additive:
    """An executor whose candidates have additive noise and cost; it may break off."""

    def __init__(self, break_after: int | None = None, fail_all: bool = False) -> None:
        self.evaluated: list[str] = []
        self.break_after = break_after
        self.fail_all = fail_all

    def run(self, phase: Phase, tasks: Iterable[Task]) -> Iterator[Outcome]:  # noqa: ARG002
        for task in tasks:
            if len(self.evaluated) == self.break_after:
                raise CutOffError
            self.evaluated.append(task.plan.digest)
            if self.fail_all:
                yield Outcome(task.number, failure=Failure("no engine"))
                continue
            noise = sum((int(k[1:]) + 1) * NOISE[s.weight.bits] for k, s in task.plan.assignment)
            cost = sum(s.activation.bits * (1 + int(k[1:]) % 3) for k, s in task.plan.assignment)
            yield Outcome(
                task.number,
                {
                    "sqnr_db": Measurement(-noise, Kind.EMULATED),
                    "accuracy_drop": Measurement(noise / 1000, Kind.EMULATED),
                    "bops_ratio": Measurement(float(cost), Kind.ESTIMATED),
                },
            )

    def close(self) -> None:
        """Nothing to stop."""


class Kept(list[Candidate]):
    """A recorder that remembers."""

    def candidate(self, candidate: Candidate) -> None:
        self.append(candidate)


def search(
    journal: Path | None,
    executor: Additive,
    kept: Kept,
    *,
    sampler: str = "tpe",
    trials: int = 36,
    knobs: int = 6,
    minutes: float | None = None,
) -> History:
    space = space_of(knobs)
    limits = Limits(Constraints(accuracy_drop=0.02), {})
    strategy = Strategy(
        space,
        seed_plans(space, table_of(space)),
        objectives=(Objective.OUTPUT_ERROR, Objective.BOPS),
        limits=limits,
        sampler=sampler,
        seed=1,
        journal=journal,
        proposer=guide_of(space) if sampler == GUIDED else None,
    )
    costs = Forecast(space, lambda plan: {})
    gate = Gate((Objective.OUTPUT_ERROR, Objective.BOPS), limits, costs)
    return Rounds(
        strategy,
        executor,
        phases=(Phase.QUALITY,),
        budget=Budget(trials=trials, round_size=8, minutes=minutes),
        known=list(kept),
        gate=gate,
        recorder=kept,
        clock=time.monotonic,
    ).run()


def plans(history: History) -> list[tuple[int, str, str]]:
    return [(item.number, item.digest, item.origin) for item in history.candidates]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("break_after", [1, 8, 19, 27, 33])
def test_a_search_cut_off_anywhere_asks_for_the_same_plans(
    tmp_path: Path, sampler: str, break_after: int
) -> None:
    whole = search(tmp_path / "whole", Additive(), Kept(), sampler=sampler)
    kept = Kept()
    with pytest.raises(CutOffError):
        search(tmp_path / "cut", Additive(break_after), kept, sampler=sampler)
    rest = Additive()
    resumed = search(tmp_path / "cut", rest, kept, sampler=sampler)
    assert plans(resumed) == plans(whole)
    assert len(rest.evaluated) == 36 - break_after


def test_equal_plans_are_never_evaluated_twice() -> None:
    executor = Additive()
    search(None, executor, Kept(), trials=60, knobs=3)
    assert len(set(executor.evaluated)) == len(executor.evaluated) == 60


def test_a_space_that_is_exhausted_ends_the_search() -> None:
    executor = Additive()
    history = search(None, executor, Kept(), trials=1000, knobs=2)
    assert history.reason is StopReason.EXHAUSTED
    assert len(history.candidates) == 4**2


def test_zero_trials_evaluate_the_seeds_alone() -> None:
    history = search(None, Additive(), Kept(), trials=0)
    assert history.reason is StopReason.BUDGET
    assert {item.origin.partition(":")[0] for item in history.candidates} == {"seed"}


def test_time_ends_the_search_after_the_round() -> None:
    history = search(None, Additive(), Kept(), trials=1000, minutes=1e-9)
    assert history.reason is StopReason.TIME


def test_a_round_of_failures_alone_stops_the_search_with_its_reason() -> None:
    kept = Kept()
    with pytest.raises(ExecutionError, match=r"all 8 candidates.*no engine"):
        search(None, Additive(fail_all=True), kept)
    assert len(kept) == 8


def test_interrupts_keep_what_is_finished() -> None:
    class Interrupted(Additive):
        def run(self, phase: Phase, tasks: Iterable[Task]) -> Iterator[Outcome]:
            for index, outcome in enumerate(super().run(phase, tasks)):
                if index == 3:
                    raise KeyboardInterrupt
                yield outcome

    history = search(None, Interrupted(), Kept())
    assert history.reason is StopReason.INTERRUPTED
    assert len(history.candidates) == 3


def test_the_sampler_beats_random_draws_where_the_optimum_is_known() -> None:
    def best(sampler: str) -> float:
        history = search(None, Additive(), Kept(), sampler=sampler, trials=80, knobs=8)
        drawn = [item for item in history.candidates if not item.origin.startswith("seed")]
        return sum(
            min(item.value("bops_ratio") + weight * -item.value("sqnr_db") for item in drawn)
            for weight in (1.0, 3.0, 10.0)
        )

    assert best("tpe") < best("random")


def test_a_number_that_stood_for_another_plan_is_measured_again() -> None:
    kept = Kept()
    history = search(None, Additive(), kept, trials=16, knobs=3)
    first, second = history.candidates[:2]
    kept[:] = [*kept[2:], replace(first, number=second.number)]
    executor = Additive()
    assert plans(search(None, executor, kept, trials=16, knobs=3)) == plans(history)
    assert executor.evaluated == [first.digest, second.digest]
