"""What of a candidate is worth measuring, given what is known of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoquant.core.evaluation import Threshold
from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.objectives import Goal
from autoquant.core.pareto import frontier_mask
from autoquant.core.plan import Plan
from autoquant.searching.costing.forecast import Forecast
from autoquant.searching.proposing.constraints import Limits

INTERVAL_Z = 2.0
"""A predicted latency is taken to be within this many standard errors."""

ALWAYS_WHOLE = ("seed:uniform", "seed:mended", "seed:most-precise")
"""Origins that begin so are rivals that any user asks for: they are measured in full."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """Why a candidate's latency is not measured, and what it is predicted to be."""

    reason: str
    predicted: Measurements


class Pruner:
    """Knows the candidates so far, and says what of a new one could matter."""

    def __init__(self, objectives: Sequence[Goal], limits: Limits, costs: Forecast) -> None:
        self._axes = tuple(item for item in objectives if not item.is_quality)
        self._limits = limits
        self._costs = costs
        self._rivals: dict[int, Candidate] = {}
        self._settled = 0

    def learn(self, candidate: Candidate) -> None:
        """Take in a candidate: a rival of later ones if it was measured whole and may be chosen."""
        self._costs.learn(candidate)
        self._rivals.pop(candidate.number, None)
        whole = candidate.stopped is None and candidate.failure is None
        needed = {"sqnr_db", "accuracy_drop", *(item.measurement for item in self._axes)}
        if whole and needed <= set(candidate.measurements) and self._limits.kept_by(candidate):
            self._rivals[candidate.number] = candidate

    def settle(self, before: int) -> None:
        """Begin a round: its thresholds and predictions look at the candidates before its first.

        So what is measured does not depend on what finishes first, nor on where an earlier process
        was stopped.
        """
        self._settled = before
        self._costs.settle(before)
        self._drop_beaten()

    def threshold(self, plan: Plan, origin: str) -> Threshold | None:
        """What a plan must be able to reach while its quality is measured."""
        if origin.startswith(ALWAYS_WHOLE):
            return None
        allowed = self._limits.constraints.accuracy_drop
        predicted = self._costs.predict(plan)
        cheaper = [
            rival
            for number, rival in self._rivals.items()
            if number < self._settled and self._costs_no_more(rival, predicted)
        ]
        if not cheaper:
            return Threshold(accuracy_drop=allowed)
        rival = max(cheaper, key=lambda item: (item.measurements["sqnr_db"].value, -item.number))
        drop = rival.measurements["accuracy_drop"]
        return Threshold(
            accuracy_drop=allowed,
            rival=rival.number,
            rival_sqnr_db=rival.measurements["sqnr_db"].value,
            rival_drop=drop.value,
            rival_drop_stderr=drop.stderr or 0.0,
        )

    def prune_latency(self, candidate: Candidate) -> Pruned | None:
        """Say why a candidate's latency need not be measured; None where it must be.

        It need not when the candidate was stopped, when it is beyond a constraint already, or
        when an earlier rival that is not slower than the fastest it may be has the better output
        error while the candidate is not one standard error ahead in accuracy.
        """
        if candidate.origin.startswith(ALWAYS_WHOLE):
            return None
        predicted = self._costs.predict(candidate.plan)
        if "speedup" not in predicted:
            return None
        reason = candidate.stopped or self._beyond_limits(candidate)
        if reason is None:
            rival = self._better_rival(candidate, predicted)
            if rival is None:
                return None
            speedup = predicted["speedup"]
            reason = (
                f"latency not measured: predicted speedup {speedup.value:.2f} "
                f"± {speedup.stderr or 0.0:.2f}, and candidate {rival.number} is faster with less "
                "output error"
            )
        return Pruned(reason, predicted)

    def competing(self) -> tuple[float, ...]:
        """Speedups of the candidates before the round that a new one may push off the frontier."""
        return tuple(
            rival.measurements["speedup"].value
            for number, rival in self._rivals.items()
            if number < self._settled and "speedup" in rival.measurements
        )

    def _drop_beaten(self) -> None:
        """Forget rivals that another is as good as in all that a later candidate is held against.

        Only among those that every later threshold looks at; so that a threshold costs no more
        the longer the search is.
        """
        settled = [rival for number, rival in self._rivals.items() if number < self._settled]
        losses = [
            (
                -rival.measurements["sqnr_db"].value,
                rival.measurements["accuracy_drop"].value,
                *(axis.loss(rival.measurements) for axis in self._axes),
            )
            for rival in settled
        ]
        if losses:
            for rival, kept in zip(settled, frontier_mask(np.array(losses)), strict=True):
                if not kept:
                    del self._rivals[rival.number]

    def _beyond_limits(self, candidate: Candidate) -> str | None:
        for name, excess in self._limits.violations(candidate).items():
            if excess > 0:
                return f"latency not measured: {name} is {excess:.4g} beyond its limit"
        return None

    def _better_rival(self, candidate: Candidate, predicted: Measurements) -> Candidate | None:
        sqnr, drop = candidate.measurements["sqnr_db"], candidate.measurements["accuracy_drop"]
        for number, rival in self._rivals.items():
            if number >= candidate.number:
                continue
            other = rival.measurements["accuracy_drop"]
            ahead = other.value - drop.value
            if (
                rival.measurements["sqnr_db"].value >= sqnr.value
                and ahead <= math.hypot(drop.stderr or 0.0, other.stderr or 0.0)
                and self._costs_no_more(rival, predicted)
            ):
                return rival
        return None

    def _costs_no_more(self, rival: Candidate, predicted: Measurements) -> bool:
        """Whether a rival is at most as costly as the least that a plan may cost."""
        for objective in self._axes:
            guess = predicted.get(objective.measurement)
            if guess is None:
                return False
            margin = INTERVAL_Z * (guess.stderr or 0.0)
            best = guess.value + margin if objective.higher_is_better else guess.value - margin
            least = -best if objective.higher_is_better else best
            if objective.loss(rival.measurements) > least:
                return False
        return True
