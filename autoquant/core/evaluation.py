"""What the search asks of its workers, and what they answer: values and two protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from autoquant.core.measurement import Failure, Measurements
from autoquant.core.plan import Plan
from autoquant.core.readback import ReadBack


class Phase(Enum):
    """One kind of work on a plan.

    `quality` and `heldout` run in parallel; `latency` and `single`, the latency of one sample, run
    alone on their node.
    """

    QUALITY = "quality"
    LATENCY = "latency"
    SINGLE = "single"
    HELDOUT = "heldout"

    @property
    def is_timed(self) -> bool:
        """Whether it takes times, which other work beside it would spoil."""
        return self in (Phase.LATENCY, Phase.SINGLE)


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a candidate must still be able to reach for its evaluation to go on.

    Attributes:
        accuracy_drop: Largest drop that the user allows; None: any.
        rival: Number of a candidate that certainly costs no more; None: there is none.
        rival_sqnr_db: Its output error.
        rival_drop: Its accuracy drop.
        rival_drop_stderr: Standard error of that.
    """

    accuracy_drop: float | None = None
    rival: int | None = None
    rival_sqnr_db: float = 0.0
    rival_drop: float = 0.0
    rival_drop_stderr: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """A plan to work on; without a threshold it is measured whole.

    Attributes:
        number: Its candidate's.
        plan: What to work on.
        threshold: What its quality must reach.
        competing: Speedups among which a latency must find its place; where that is known, it
            need not be timed more exactly.
        sitting: In which a latency is timed: a later one builds anew what it times, its rivals too.
    """

    number: int
    plan: Plan
    threshold: Threshold | None = None
    competing: tuple[float, ...] = ()
    sitting: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one phase found out about one task.

    `stopped` says why an evaluation ended before its last sample, None where it did not.
    """

    number: int
    measurements: Measurements = field(default_factory=dict)
    failure: Failure | None = None
    stopped: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    executed: ReadBack = field(default_factory=dict)


class Evaluator(Protocol):
    """Measures plans in one process. Never raises for a bad plan: failure is data."""

    def run(self, phase: Phase, task: Task) -> Outcome:
        """Do one phase of one task."""


class EvaluatorFactory(Protocol):
    """Picklable recipe of an evaluator: a worker calls it once and keeps what it gives."""

    def __call__(self) -> Evaluator:
        """Load the subject and the statistics, and give the evaluator."""


IsOver = Callable[[], bool]
"""Whether the time of a search is up."""


def never() -> bool:
    """The time is never up."""
    return False


class Executor(Protocol):
    """Runs evaluators: here, or on Ray workers."""

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        """Give the outcomes as they come, in any order, one for each task.

        `tasks` is consumed lazily: work starts on the first while the rest is still being drawn.
        Once `is_over` nothing more is begun, and workers that can be stopped are: what they had
        has no outcome.

        Raises:
            ExecutionError: There are no workers any more.
        """

    def close(self) -> None:
        """Stop the workers."""
