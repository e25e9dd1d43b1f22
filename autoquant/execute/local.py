"""Evaluations in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from autoquant.core.evaluation import EvaluatorFactory, Outcome, Phase, Task
from autoquant.core.measurement import Failure


class LocalExecutor:
    """Evaluates tasks one by one, here.

    Args:
        factory: Gives the evaluator; called once.
    """

    def __init__(self, factory: EvaluatorFactory) -> None:
        self._evaluator = factory()

    def run(self, phase: Phase, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Give the outcome of each task, in their order."""
        for task in tasks:
            try:
                yield self._evaluator.run(phase, task)
            except Exception as error:  # noqa: BLE001  # whatever a plan breaks is its failure
                yield Outcome(task.number, failure=Failure(f"{type(error).__name__}: {error}"))

    def close(self) -> None:
        """Nothing to stop."""
