"""What was chosen for its time is timed anew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pytest

from autoquant.core.evaluation import Outcome, Phase, Task
from autoquant.core.frontier import Frontier, find_frontier
from autoquant.core.measurement import Candidate, Kind, Measurement, TimedBy
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.searching.frontier_again import noise_notice, of_two_sittings, time_again

TRUE_SPEED = {0: 1.0, 1: 2.0, 2: 1.9, 3: 1.8}


class Timer:
    """Gives the true speed."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def run(self, phase: Phase, tasks: Iterable[Task]) -> Iterator[Outcome]:
        listed = list(tasks)
        self.asked.append([task.number for task in listed])
        for task in listed:
            speed = Measurement(TRUE_SPEED[task.number], Kind.MEASURED, stderr=0.01)
            yield Outcome(task.number, {"speedup": speed}, seconds={phase.value: 0.5})

    def close(self) -> None:
        """Nothing to stop."""


class Kept(list[Candidate]):
    """A recorder that remembers."""

    def candidate(self, candidate: Candidate) -> None:
        self.append(candidate)


def candidate(number: int, speedup: float, sqnr: float, stderr: float = 0.01) -> Candidate:
    found = {
        "sqnr_db": Measurement(sqnr, Kind.MEASURED, stderr=0.1),
        "accuracy_drop": Measurement(0.0, Kind.MEASURED, stderr=0.0),
        "speedup": Measurement(speedup, Kind.MEASURED, stderr=stderr),
    }
    plan = Plan.of({"a": Scheme.INT8, "b": list(Scheme)[number]})
    return Candidate(number, plan, "made up", found)


def find(candidates: Sequence[Candidate]) -> Frontier:
    return find_frontier(candidates, {}, (Objective.OUTPUT_ERROR, Objective.LATENCY))


def test_a_lucky_time_does_not_stand_and_whom_it_hid_is_timed_too() -> None:
    lucky = [candidate(0, 1.0, 90.0), candidate(1, 2.0, 30.0), candidate(2, 1.9, 35.0)]
    lucky.append(candidate(3, 4.2, 32.0))
    timer, kept = Timer(), Kept()
    found = time_again(lucky, find, timer, kept, Silent())
    assert timer.asked == [[0, 2, 3], [1]]
    assert [item.value("speedup") for item in found] == list(TRUE_SPEED.values())
    assert [item.number for item in find(found)] == [1, 2, 0]
    assert len(kept) == 4


def test_what_was_timed_again_is_not_timed_a_third_time() -> None:
    timer = Timer()
    found = time_again([candidate(0, 1.0, 90.0)], find, timer, Kept(), Silent())
    time_again(found, find, timer, Kept(), Silent())
    assert timer.asked == [[0]]


def test_a_busy_machine_is_said_and_a_quiet_one_is_not() -> None:
    quiet = candidate(0, 2.0, 40.0)
    assert noise_notice(find([quiet])) is None
    notice = noise_notice(find([as_busy(quiet)]))
    assert notice is not None
    assert "1 of 1 speedups" in notice


def as_busy(found: Candidate) -> Candidate:
    speedup = replace(found.measurements["speedup"], clock=TimedBy.THREAD, busy=True)
    return replace(found, measurements={**found.measurements, "speedup": speedup})


def test_what_a_busy_machine_kept_off_the_frontier_is_timed_again() -> None:
    slow = as_busy(candidate(3, 1.0, 32.0))
    timer = Timer()
    found = time_again([candidate(1, 2.0, 33.0), slow], find, timer, Kept(), Silent())
    assert timer.asked[0] == [1, 3]
    assert found[1].value("speedup") == TRUE_SPEED[3]


def timed(value: float, *, busy: bool = False) -> dict[str, Measurement]:
    found = Measurement(value, Kind.MEASURED, 0.05, 6, clock=TimedBy.THREAD, busy=busy)
    return {"speedup": found}


def test_the_second_sitting_stands_and_its_error_covers_the_first() -> None:
    found = of_two_sittings(timed(2.0), timed(2.12))["speedup"]
    assert found.value == 2.12
    assert found.stderr == pytest.approx(0.12 / math.sqrt(2))
    assert not found.busy


def test_sittings_that_differ_by_more_than_their_errors_are_busy_until_a_third_agrees() -> None:
    second = of_two_sittings(timed(2.0), timed(3.0))
    assert second["speedup"].busy
    assert not of_two_sittings(second, timed(3.1))["speedup"].busy
