"""Evaluations in this process."""

from __future__ import annotations

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


def run_safely(evaluator: Evaluator, phase: Phase, task: Task) -> Outcome:
    """Do one phase of one task; whatever a plan breaks is its own failure."""
    try:
        return evaluator.run(phase, task)
    except Exception as error:  # noqa: BLE001  # an engine may raise anything
        return Outcome(task.number, failure=Failure(masked(f"{type(error).__name__}: {error}")))


class LocalExecutor:
    """Evaluates tasks one by one, here; one that has begun cannot be stopped."""

    def __init__(self, factory: EvaluatorFactory) -> None:
        self._evaluator = factory()

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        """Give the outcome of each task, in their order."""
        for task in tasks:
            if is_over():
                return
            yield run_safely(self._evaluator, phase, task)

    def close(self) -> None:
        """Nothing to stop."""
