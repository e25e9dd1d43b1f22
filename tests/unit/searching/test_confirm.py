"""What was chosen for its time is timed anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from autoquant.core.evaluation import Outcome, Phase, Task
from autoquant.core.frontier import Frontier, find_frontier
from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.searching.frontier_again import noise_notice, time_again

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
    assert timer.asked == [[3, 2, 0], [1]]
    assert [item.value("speedup") for item in found] == list(TRUE_SPEED.values())
    assert [item.number for item in find(found)] == [1, 2, 0]
    assert len(kept) == 4


def test_what_was_timed_again_is_not_timed_a_third_time() -> None:
    timer = Timer()
    found = time_again([candidate(0, 1.0, 90.0)], find, timer, Kept(), Silent())
    time_again(found, find, timer, Kept(), Silent())
    assert timer.asked == [[0]]


def test_a_busy_machine_is_said_and_a_quiet_one_is_not() -> None:
    assert noise_notice(find([candidate(0, 2.0, 40.0)])) is None
    notice = noise_notice(find([candidate(0, 2.0, 40.0, stderr=0.2)]))
    assert notice is not None
    assert "standard error of 10%" in notice
