"""One suite that every executor passes, with a real Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from autoquant.core.evaluation import Executor, Outcome, Phase, Task
from autoquant.core.measurement import Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.job import Execution
from autoquant.searching.measuring.workers.start import start_executor

PLAN = Plan.of({"a": Scheme.INT8})


class Squares:
    """Measures a task's number, and breaks on number 4."""

    def run(self, phase: Phase, task: Task) -> Outcome:
        if task.number == 4:
            raise ValueError("four is not allowed")
        value = Measurement(float(task.number**2), Kind.MEASURED)
        return Outcome(task.number, {phase.value: value})


@dataclass(frozen=True)
class SquaresFactory:
    """Picklable."""

    def __call__(self) -> Squares:
        return Squares()


@pytest.fixture(scope="module", params=["local", "ray"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    started = start_executor(Execution(kind=request.param, workers=2), SquaresFactory())
    yield started
    started.close()


def tasks(*numbers: int) -> list[Task]:
    return [Task(number, PLAN) for number in numbers]


@pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.value)
def test_every_task_has_one_outcome(executor: Executor, phase: Phase) -> None:
    found = {o.number: o for o in executor.run(phase, tasks(*range(4)))}
    assert {n: o.measurements[phase.value].value for n, o in found.items()} == {
        0: 0.0,
        1: 1.0,
        2: 4.0,
        3: 9.0,
    }


def test_an_exception_is_that_tasks_failure_and_no_other(executor: Executor) -> None:
    found = {o.number: o for o in executor.run(Phase.QUALITY, tasks(3, 4, 5))}
    assert found[4].failure is not None
    assert found[4].failure.reason == "ValueError: four is not allowed"
    assert found[3].failure is None
    assert found[5].failure is None


def test_no_tasks_give_no_outcomes(executor: Executor) -> None:
    assert list(executor.run(Phase.QUALITY, [])) == []


def test_the_first_outcome_comes_before_the_last_task_is_drawn(executor: Executor) -> None:
    drawn: list[int] = []

    def slowly() -> Iterator[Task]:
        for number in range(8):
            drawn.append(number)
            time.sleep(0.02)
            yield Task(number + 10, PLAN)

    outcomes = executor.run(Phase.QUALITY, slowly())
    next(outcomes)
    assert len(drawn) < 8
    assert len(list(outcomes)) == 7
