"""Whether a search has anything left to gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoquant.core.frontier import NOISE_Z
from autoquant.core.measurement import Candidate, noise_ratio
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.guided import Guide
from autoquant.searching.proposing.pruner import ALWAYS_WHOLE, INTERVAL_Z
from autoquant.searching.proposing.refusals import Taken
from autoquant.searching.seeding.program.additive import Limit
from autoquant.searching.seeding.program.sweep import cheapest_choices

ENOUGH_SHARE = 0.01
"""A round that is expected to add less of the frontier's hypervolume is not run."""
_LARGEST_ERROR = 0.05
"""A larger share of the cost, imagined to be gained, is looked for however unsure it is."""
_NOISE_SLACK = 1.25
"""The additive noise of a plan may be so far off from where accuracy really breaks: 1 dB."""


@dataclass(frozen=True, slots=True)
class Prospects:
    """Says between two rounds whether nothing is left to gain.

    It depends on the candidates alone, so that a resumed search ends where the whole one does.

    Attributes:
        space: What may be chosen.
        guide: The models of noise and cost, taught by the candidates.
        limits: The user's constraints.
        rows: Those on costs, as limits of the integer program, over knobs.
        share: Least share of the frontier's hypervolume that a round must promise.
        round_size: Plans of a round.
        seed: The job's seed.
    """

    space: SearchSpace
    guide: Guide
    limits: Limits
    rows: tuple[Limit, ...]
    share: float
    round_size: int
    seed: int

    def are_spent(self, candidates: Sequence[Candidate], taken: Taken, *, seeds_left: bool) -> bool:
        """Whether the search may end.

        It may when the cheapest plan that the models can imagine within the limits is not cheaper
        than one in hand by more than its error, or when no seeds are left and the next round
        promises too little. Before the first round after the uniform plans it may not.
        """
        if all(item.origin.startswith(ALWAYS_WHOLE) for item in candidates):
            return False
        if self._is_cheapest_in_hand(candidates):
            return True
        if seeds_left:
            return False
        random = np.random.default_rng([self.seed, len(candidates)])
        return self.guide.expected_gain(random, self.round_size, taken) < self.share

    def _is_cheapest_in_hand(self, candidates: Sequence[Candidate]) -> bool:
        noise, axis = self.guide.models()
        inside = [axis.cost_of(c) for c in candidates if is_certainly_within(c, self.limits)]
        if not inside:
            return False
        cost, error = min((cost, error or 0.0) for cost, error in inside)
        beyond = [item for item in candidates if is_certainly_beyond(item, self.limits)]
        rows = list(self.rows)
        if beyond:
            least = min(noise_ratio(item.value("sqnr_db")) for item in beyond)
            rows.append(Limit("noise", noise.table, _NOISE_SLACK * least))
        choices = cheapest_choices(self.space, axis.table, rows)
        if choices is None:
            return True
        imagined, unsure = axis.predict(Plan.of(choices))
        margin = min(INTERVAL_Z * math.hypot(unsure, error), _LARGEST_ERROR * cost)
        return cost - imagined <= margin


@dataclass(frozen=True, slots=True)
class AllProspects:
    """Those of every cost: a search ends when none has anything left to gain."""

    prospects: tuple[Prospects, ...]

    def are_spent(self, candidates: Sequence[Candidate], taken: Taken, *, seeds_left: bool) -> bool:
        """Whether the search may end."""
        return all(
            item.are_spent(candidates, taken, seeds_left=seeds_left) for item in self.prospects
        )


def is_certainly_within(candidate: Candidate, limits: Limits) -> bool:
    """Whether a candidate was measured whole, and keeps the accuracy limit with its 95% interval.

    Where there is no such limit nothing is certain: every plan is worth its accuracy.
    """
    limit = limits.constraints.accuracy_drop
    if limit is None or candidate.stopped is not None or not limits.kept_by(candidate):
        return False
    drop = candidate.measurements.get("accuracy_drop")
    if drop is None:
        return False
    unsure = limit / 2.0 if drop.stderr is None else NOISE_Z * drop.stderr
    return drop.value + unsure <= limit


def is_certainly_beyond(candidate: Candidate, limits: Limits) -> bool:
    """Whether a candidate exceeds the accuracy limit with its 95% interval."""
    limit = limits.constraints.accuracy_drop
    drop = candidate.measurements.get("accuracy_drop")
    if limit is None or drop is None or candidate.failure is not None:
        return False
    return drop.value - NOISE_Z * (drop.stderr or 0.0) > limit
