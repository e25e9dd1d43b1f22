"""What the search asks of its workers, and what they answer: values and two protocols."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from autoquant.core.measurement import Failure, Measurements
from autoquant.core.plan import Plan


class Phase(Enum):
    """One kind of work on a plan.

    `quality` and `heldout` run in parallel; `latency` runs alone on its node.
    """

    QUALITY = "quality"
    LATENCY = "latency"
    HELDOUT = "heldout"


@dataclass(frozen=True, slots=True)
class Task:
    """A plan to work on, by the number of its candidate."""

    number: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one phase found out about one task."""

    number: int
    measurements: Measurements = field(default_factory=dict)
    failure: Failure | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    executed: Mapping[str, str] = field(default_factory=dict)


class Evaluator(Protocol):
    """Measures plans in one process. Never raises for a bad plan: failure is data."""

    def run(self, phase: Phase, task: Task) -> Outcome:
        """Do one phase of one task."""


class EvaluatorFactory(Protocol):
    """Picklable recipe of an evaluator: a worker calls it once and keeps what it gives."""

    def __call__(self) -> Evaluator:
        """Load the subject and the statistics, and give the evaluator."""


class Executor(Protocol):
    """Runs evaluators: here, or on Ray workers."""

    def run(self, phase: Phase, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Give the outcomes as they come, in any order, one for each task.

        `tasks` is consumed lazily: work starts on the first while the rest is still being drawn.
        """

    def close(self) -> None:
        """Stop the workers."""
