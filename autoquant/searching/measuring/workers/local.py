"""Evaluations in this process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from autoquant.core.evaluation import (
    Evaluator,
    EvaluatorFactory,
    IsOver,
    Outcome,
    Phase,
    Task,
    never,
)
from autoquant.core.measurement import Failure
from autoquant.core.secrets import masked
from autoquant.searching.measuring.workers.alarm import Overdue, overdue_after
from autoquant.searching.measuring.workers.time_limits import TimeLimits


def run_safely(evaluator: Evaluator, phase: Phase, task: Task) -> Outcome:
    """Do one phase of one task; whatever a plan breaks is its own failure."""
    try:
        return evaluator.run(phase, task)
    except Exception as error:  # noqa: BLE001  # an engine may raise anything
        return Outcome(task.number, failure=Failure(masked(f"{type(error).__name__}: {error}")))


class LocalExecutor:
    """Evaluates tasks one by one, here.

    Args:
        factory: Gives the evaluator.
        timeout: Seconds that one phase of a task may take; None: as `TimeLimits` has it.
    """

    def __init__(self, factory: EvaluatorFactory, timeout: float | None = None) -> None:
        self._evaluator = factory()
        self._limits = TimeLimits(timeout, time.monotonic)

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        """Give the outcome of each task, in their order."""
        for task in tasks:
            if is_over():
                return
            yield self._run(phase, task)

    def _run(self, phase: Phase, task: Task) -> Outcome:
        limits = self._limits
        started = limits.clock()
        try:
            with overdue_after(limits.limit_s(phase)):
                outcome = run_safely(self._evaluator, phase, task)
        except Overdue:
            return Outcome(task.number, failure=Failure(limits.reason(phase), transient=True))
        limits.learn(phase, limits.clock() - started)
        return outcome

    def close(self) -> None:
        """Nothing to stop."""
