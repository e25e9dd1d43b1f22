"""A search that is cut off anywhere ends as if it had not been."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from autoquant.core.costs import CostTable
from autoquant.core.evaluation import IsOver, Outcome, Phase, Task, never
from autoquant.core.history import Past, StopReason
from autoquant.core.measurement import Candidate, Failure, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import ExecutionError
from autoquant.job import Budget, Constraints
from autoquant.results.history import History, read_past
from autoquant.searching.costing.cost_model import CostModel
from autoquant.searching.costing.forecast import Forecast
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.guided import CostAxis, Guide
from autoquant.searching.proposing.pruner import Pruner
from autoquant.searching.proposing.rounds import Ended, Rounds
from autoquant.searching.proposing.sampled import GUIDED, SAMPLERS
from autoquant.searching.proposing.strategy import Strategy
from autoquant.searching.seeding.seeds import Seed, seed_plans

SCHEMES = (Scheme.INT8, Scheme.INT16, Scheme.FP16, Scheme.FP32)
NOISE = {8: 1.0, 16: 0.1, 32: 0.0}


def space_of(knobs: int) -> SearchSpace:
    return SearchSpace(tuple(Knob(f"k{i}", (f"k{i}",), SCHEMES) for i in range(knobs)))


def edges_of(space: SearchSpace) -> list[tuple[str, str]]:
    """Each knob reads what the one before it writes."""
    return list(pairwise(knob.name for knob in space.knobs))


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


@cache
def seeds_of(knobs: int) -> tuple[Seed, ...]:
    return tuple(seed_plans(space_of(knobs), table_of(space_of(knobs))))


def guide_of(space: SearchSpace) -> Guide:
    """Proposals from models that know the truth but for a few percent."""
    noise, cost = models_of(space)
    return Guide(space, CostModel(noise), CostAxis(Objective.BOPS, cost))


def models_of(space: SearchSpace) -> tuple[CostTable, CostTable]:
    """Noise and cost."""
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
    return CostTable(0.0, noise), CostTable(0.0, cost)


class CutOffError(Exception):
    """Stands for the controller's death."""


class Additive:
    """An executor whose candidates have additive noise and cost; it may break off."""

    def __init__(self, break_after: int | None = None, good: int | None = None) -> None:
        self.evaluated: list[str] = []
        self.break_after = break_after
        self.good = good
        """After so many all fail."""

    def run(
        self,
        phase: Phase,  # noqa: ARG002
        tasks: Iterable[Task],
        is_over: IsOver = never,
    ) -> Iterator[Outcome]:
        for task in tasks:
            if is_over():
                return
            if len(self.evaluated) == self.break_after:
                raise CutOffError
            self.evaluated.append(task.plan.digest)
            if self.good is not None and len(self.evaluated) > self.good:
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


class Refusing(Additive):
    """An engine that refuses two neighbours of a kind, and names one of them."""

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        for task in tasks:
            if refuses(task.plan):
                self.evaluated.append(task.plan.digest)
                yield Outcome(task.number, failure=Failure("no kernel", refused=("k3",)))
            else:
                yield from super().run(phase, [task], is_over)


def refuses(plan: Plan) -> bool:
    return plan["k2"] is Scheme.INT8 and plan["k3"] is not Scheme.INT8


class Kept(list[Candidate]):
    """A recorder that remembers."""

    def candidate(self, candidate: Candidate) -> None:
        self.append(candidate)


def search(
    executor: Additive,
    kept: Kept | History | None = None,
    past: Past | None = None,
    *,
    sampler: str = "tpe",
    trials: int = 36,
    knobs: int = 6,
    deadline: float = math.inf,
) -> Ended:
    space = space_of(knobs)
    limits = Limits(Constraints(accuracy_drop=0.02), {})
    strategy = Strategy(
        space,
        seeds_of(knobs),
        objectives=(Objective.OUTPUT_ERROR, Objective.BOPS),
        limits=limits,
        sampler=sampler,
        seed=1,
        past=past,
        log=kept if isinstance(kept, History) else None,
        proposer=guide_of(space) if sampler == GUIDED else None,
        edges=edges_of(space),
    )
    costs = Forecast(space, lambda plan: {})
    pruner = Pruner((Objective.OUTPUT_ERROR, Objective.BOPS), limits, costs)
    return Rounds(
        strategy,
        executor,
        phases=(Phase.QUALITY,),
        budget=Budget(trials=trials, round_size=8),
        known=() if past is None else past.candidates,
        pruner=pruner,
        recorder=Kept() if kept is None else kept,
        clock=time.monotonic,
        deadline=deadline,
    ).run()


class Timed(Additive):
    """The same with a latency that is a little off from what is foreseen, always equally."""

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        for found in super().run(phase, tasks, is_over):
            if phase is Phase.LATENCY:
                cost = found.measurements["bops_ratio"].value
                speedup = 2000.0 / cost * (0.95 + (cost % 7) / 60)
                yield Outcome(
                    found.number,
                    {"speedup": Measurement(speedup, Kind.MEASURED, stderr=0.01 * speedup)},
                )
            else:
                yield found


def timed_search_on(path: Path, executor: Timed) -> Ended:
    """A search in two phases, in which latencies are foreseen and ruled out."""
    space, objectives = space_of(6), (Objective.OUTPUT_ERROR, Objective.LATENCY)
    limits = Limits(Constraints(accuracy_drop=0.02), {})
    noise, cost = models_of(space)
    axis = CostAxis(Objective.LATENCY, CostModel(cost), baseline_ms=2000.0)
    with closing(History(path)) as file:
        past = read_past(path)
        strategy = Strategy(
            space,
            seeds_of(6),
            objectives=objectives,
            limits=limits,
            sampler=GUIDED,
            seed=1,
            past=past,
            log=file,
            proposer=Guide(space, CostModel(noise), axis),
        )
        foreseen = Forecast(space, lambda plan: {}, CostModel(cost), 2000.0)
        return Rounds(
            strategy,
            executor,
            phases=(Phase.QUALITY, Phase.LATENCY),
            budget=Budget(trials=40, round_size=8),
            known=past.candidates,
            pruner=Pruner(objectives, limits, foreseen),
            recorder=file,
            clock=time.monotonic,
        ).run()


def search_on(path: Path, executor: Additive, **settings: Any) -> Ended:
    """Begin the search of a history file, or go on with it."""
    with closing(History(path)) as file:
        return search(executor, file, read_past(path), **settings)


def plans(history: Ended) -> list[tuple[int, str, str]]:
    return [(item.number, item.digest, item.origin) for item in history.candidates]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("break_after", [1, 8, 19, 27, 33])
def test_a_search_cut_off_anywhere_asks_for_the_same_plans(
    tmp_path: Path, sampler: str, break_after: int
) -> None:
    whole = search_on(tmp_path / "whole", Additive(), sampler=sampler)
    with pytest.raises(CutOffError):
        search_on(tmp_path / "cut", Additive(break_after), sampler=sampler)
    rest = Additive()
    resumed = search_on(tmp_path / "cut", rest, sampler=sampler)
    assert resumed == whole
    assert read_past(tmp_path / "cut") == read_past(tmp_path / "whole")
    assert len(rest.evaluated) == 36 - break_after


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_what_an_engine_refuses_is_learnt_and_not_proposed_again(
    tmp_path: Path, sampler: str
) -> None:
    whole = search_on(tmp_path / "whole", Refusing(), sampler=sampler, trials=80)
    failed = [item for item in whole.candidates if item.failure is not None]
    assert 0 < len(failed) <= 9, "at most each scheme of k3 beside each of k4, once"
    around = [tuple(item.plan[name] for name in ("k2", "k3", "k4")) for item in failed]
    last_seeds = [item for item in failed if item.origin.startswith("seed:")]
    assert len(set(around[len(last_seeds) :])) == len(around) - len(last_seeds)
    with pytest.raises(CutOffError):
        search_on(tmp_path / "cut", Refusing(30), sampler=sampler, trials=80)
    assert search_on(tmp_path / "cut", Refusing(), sampler=sampler, trials=80) == whole


def test_a_history_cut_after_any_line_leads_to_the_same_search(tmp_path: Path) -> None:
    whole = search_on(tmp_path / "whole", Additive(), sampler="random", trials=24)
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    for count in range(len(lines)):
        path = tmp_path / f"cut-{count}"
        path.write_text("".join(lines[:count]))
        measured = len(read_past(path).candidates)
        rest = Additive()
        assert search_on(path, rest, sampler="random", trials=24) == whole
        assert len(rest.evaluated) == 24 - measured
        assert read_past(path) == read_past(tmp_path / "whole")


def test_what_is_ruled_out_does_not_depend_on_where_a_search_was_cut(tmp_path: Path) -> None:
    whole = timed_search_on(tmp_path / "whole", Timed())
    assert any(item.stopped for item in whole.candidates), "some latencies are ruled out"
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    for count in range(0, len(lines), 7):
        (tmp_path / f"cut-{count}").write_text("".join(lines[:count]))
        assert timed_search_on(tmp_path / f"cut-{count}", Timed()) == whole


@pytest.mark.parametrize("share", [0.0, 0.07, 0.2, 0.33, 0.46, 0.5, 0.61, 0.74, 0.87, 0.97, 0.999])
def test_a_history_torn_anywhere_leads_to_the_same_search(tmp_path: Path, share: float) -> None:
    path = tmp_path / "history"
    whole = search_on(path, Additive())
    content, past = path.read_bytes(), read_past(path)
    path.write_bytes(content[: int(share * len(content))])
    assert search_on(path, Additive()) == whole
    assert read_past(path) == past


def test_a_round_that_ended_early_is_closed_when_a_larger_budget_goes_on(tmp_path: Path) -> None:
    search_on(tmp_path / "history", Additive(), trials=20)
    search_on(tmp_path / "history", Additive(), trials=30)
    rounds = [ask.round for ask in read_past(tmp_path / "history").asked]
    assert [rounds.count(number) for number in range(1, 6)] == [8, 8, 4, 8, 2]


def test_what_was_measured_after_a_round_does_not_change_what_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "history"
    first = search_on(path, Additive(), trials=16).candidates[0]
    with closing(History(path)) as file:
        file.candidate(replace(first, measurements={}))
    past = read_past(path)
    assert past.candidates[0].measurements == {}
    assert past.told[0] == first


def test_a_history_of_candidates_alone_is_taken_up(tmp_path: Path) -> None:
    """Versions with a study beside the history kept their asks there."""
    path = tmp_path / "history"
    whole = search_on(path, Additive(), trials=20)
    with closing(History(tmp_path / "old")) as file:
        for candidate in (*whole.candidates[:9], *whole.candidates[10:12]):
            file.candidate(candidate)
    assert "round" not in json.loads((tmp_path / "old").read_text().splitlines()[0])
    rest = Additive()
    resumed = search_on(tmp_path / "old", rest, trials=30)
    assert resumed.candidates[:9] == whole.candidates[:9]
    assert len(rest.evaluated) == 30 - 11
    assert len({item.digest for item in resumed.candidates}) == 30
    again = Additive()
    assert search_on(tmp_path / "old", again, trials=30) == resumed
    assert not again.evaluated


def test_equal_plans_are_never_evaluated_twice() -> None:
    executor = Additive()
    search(executor, trials=60, knobs=3)
    assert len(set(executor.evaluated)) == len(executor.evaluated) == 60


def test_a_space_that_is_exhausted_ends_the_search() -> None:
    executor = Additive()
    history = search(executor, trials=1000, knobs=2)
    assert history.reason is StopReason.EXHAUSTED
    assert len(history.candidates) == 4**2


def test_zero_trials_evaluate_the_seeds_alone() -> None:
    history = search(Additive(), trials=0)
    assert history.reason is StopReason.BUDGET
    assert {item.origin.partition(":")[0] for item in history.candidates} == {"seed"}


def test_time_ends_the_search_within_a_round_but_not_before_its_first_plan() -> None:
    history = search(Additive(), trials=1000, deadline=0.0)
    assert history.reason is StopReason.TIME
    assert len(history.candidates) == 1


def test_a_round_that_time_cut_off_is_resumed_as_if_it_had_not(tmp_path: Path) -> None:
    whole = search_on(tmp_path / "whole", Additive(), trials=36)
    with closing(History(tmp_path / "cut")) as file:
        assert search(Additive(), file, deadline=0.0).reason is StopReason.TIME
    resumed = search_on(tmp_path / "cut", Additive(), trials=36)
    assert resumed.candidates == whole.candidates


class Lost(Additive):
    """Its workers are gone after some candidates."""

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        for outcome in super().run(phase, tasks, is_over):
            yield outcome
            if len(self.evaluated) == self.lost_after:
                raise ExecutionError("Ray is gone")

    def __init__(self, lost_after: int, *, good: int | None = None) -> None:
        super().__init__(good=good)
        self.lost_after = lost_after


def test_lost_workers_end_the_search_with_what_was_found() -> None:
    history = search(Lost(10))
    assert history.reason is StopReason.FAILED
    assert len(history.candidates) == 10
    assert str(history.error) == "Ray is gone"


def test_lost_workers_are_an_error_where_no_plan_ever_worked() -> None:
    ended = search(Lost(1, good=0))
    assert ended.reason is StopReason.FAILED
    assert "Ray is gone" in str(ended.error)


def test_a_round_of_failures_alone_stops_the_search_with_its_reason() -> None:
    kept = Kept()
    ended = search(Additive(good=0), kept)
    assert ended.reason is StopReason.FAILED
    assert "all 8 candidates failed; the first: no engine" in str(ended.error)
    assert len(kept) == len(ended.candidates) == 8


@pytest.mark.parametrize("good", [1, 16], ids=["one worked", "all rounds but the last"])
def test_rounds_of_failures_alone_after_good_ones_are_no_end(good: int) -> None:
    ended = search(Additive(good=good), trials=18)
    assert ended.reason is not StopReason.FAILED
    assert ended.error is None
    assert [item.failure is None for item in ended.candidates] == [
        number < good for number in range(len(ended.candidates))
    ]
    assert len(ended.candidates) > good


def test_interrupts_keep_what_is_finished() -> None:
    class Interrupted(Additive):
        def run(
            self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
        ) -> Iterator[Outcome]:
            for index, outcome in enumerate(super().run(phase, tasks, is_over)):
                if index == 3:
                    raise KeyboardInterrupt
                yield outcome

    history = search(Interrupted())
    assert history.reason is StopReason.INTERRUPTED
    assert len(history.candidates) == 3


def test_the_sampler_beats_random_draws_where_the_optimum_is_known() -> None:
    def best(sampler: str) -> float:
        history = search(Additive(), sampler=sampler, trials=80, knobs=8)
        drawn = [item for item in history.candidates if not item.origin.startswith("seed")]
        return sum(
            min(item.value("bops_ratio") + weight * -item.value("sqnr_db") for item in drawn)
            for weight in (1.0, 3.0, 10.0)
        )

    assert best("tpe") < best("random")
