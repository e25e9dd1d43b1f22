"""The staged method for int8, int16 and fp16: what was tried, and whether it meets the goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from autoquant.core.glance import Glance, Glanced
from autoquant.core.measurement import Candidate, Measurement
from autoquant.core.plan import Plan

Z = 1.645
"""One-sided 95%: a drop is below its value plus this many standard errors."""

RULE = (
    "met: drop + 1.645 standard errors is within the goal (95%, one-sided); not met: drop - 1.645 "
    "standard errors is beyond it; within noise: neither. Standard errors are of the differences "
    "from fp32, sample by sample. Only what is met is taken; where even the most precise plan is "
    "within noise, a drop within the goal counts."
)


class Verdict(Enum):
    """Whether a plan meets the accuracy goal."""

    MET = "met"
    NOT_MET = "not met"
    WITHIN_NOISE = "within noise"
    FAILED = "failed"


class Stage(Enum):
    """The stages, in their order."""

    INT16 = "all int16"
    INT16_FP16 = "int16 with the fewest fp16"
    INT8 = "all int8"
    INT8_INT16 = "int8 with the fewest int16"
    THREE_WAY = "int8 and int16, fp16 ops fixed"
    SEARCH = "search for fewer int16"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One plan that was measured, and why.

    Attributes:
        stage: Where it was tried.
        why: In a few words.
        candidate: The plan and its measurements.
        verdict: Whether it meets the goal.
    """

    stage: Stage
    why: str
    candidate: Candidate
    verdict: Verdict

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.candidate.plan

    @property
    def drop(self) -> float:
        """Its accuracy drop."""
        return self.candidate.value("accuracy_drop")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TuneReport(Glanced):
    """What the staged method tried, and the plan that it ends with.

    Attributes:
        goal: The largest accuracy drop, in the metric's unit.
        attempts: Everything that was measured, in order.
        results: The attempt that each stage ended with.
        chosen: The plan with the smallest int16 share that was taken; None: the goal is out of
            reach.
        conclusion: How it ended, in a sentence.
        metric: What the user's metric is called, with its unit and direction.
    """

    goal: float
    attempts: tuple[Attempt, ...]
    results: tuple[Attempt, ...]
    chosen: Attempt | None
    conclusion: str
    metric: str = "accuracy"

    @property
    def plan(self) -> Plan | None:
        """The plan that it ends with."""
        return None if self.chosen is None else self.chosen.plan

    @property
    def glance(self) -> Glance:
        """Every plan that was tried, with its verdict."""
        rows = [
            (
                item.why,
                ", ".join(f"{count} {name}" for name, count in item.plan.counts().items()),
                "" if item.verdict is Verdict.FAILED else f"{item.drop:.4f}",
                "met, chosen" if item is self.chosen else item.verdict.value,
            )
            for item in self.attempts
        ]
        return Glance(self.conclusion, ("tried", "ops", "drop", "verdict"), rows, "report.plan")


def judge(candidate: Candidate, goal: float) -> Verdict:
    """Compare a candidate's accuracy drop with the goal, by its paired standard error.

    An unknown standard error counts as none. A candidate that was stopped early is beyond reach.
    """
    if candidate.failure is not None:
        return Verdict.FAILED
    if candidate.stopped is not None:
        return Verdict.NOT_MET
    return judge_drop(candidate.measurements["accuracy_drop"], goal)


def judge_drop(drop: Measurement, goal: float) -> Verdict:
    """Compare a drop with the goal.

    >>> from autoquant.core.measurement import Kind
    >>> judge_drop(Measurement(0.004, Kind.MEASURED, stderr=0.001), 0.01).value
    'met'
    """
    margin = Z * (drop.stderr or 0.0)
    if drop.value + margin <= goal:
        return Verdict.MET
    return Verdict.NOT_MET if drop.value - margin > goal else Verdict.WITHIN_NOISE


def fewest_int16(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt with the smallest int16 share, the first of equal ones.

    Their drops decide nothing: of many that meet the goal the best is the luckiest.
    """
    return min(attempts, key=lambda item: item.plan.int16_share)
