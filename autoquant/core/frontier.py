"""The frontier: candidates that no other beats, with regard to measurement noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter

import numpy as np

from autoquant.core.glance import Glance, Glanced
from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.objectives import Goal, Objective
from autoquant.core.pareto import frontier_mask, hypervolume
from autoquant.core.quantities import FLOAT_SPEEDUP

NOISE_Z = 1.96
"""Two values differ when they are further apart than their 95% interval."""


class Order(IntEnum):
    """How the first of two compares with the second."""

    BETTER = 1
    TIE = 0
    WORSE = -1


@dataclass(frozen=True, slots=True, repr=False)
class Frontier(Glanced):
    """The candidates worth choosing between, fastest (or smallest) first.

    Attributes:
        axes: What was traded: accuracy first (output error breaks its ties), then the costs.
        members: The candidates that stay.
        baseline: Measurements of the float model as the user gave it.
        objectives: What the sampler minimized; the hypervolume is over these.
        reference: Reference point of the hypervolume, in the objectives' losses.
        hypervolume: Volume that all measured candidates within the constraints dominate.
    """

    axes: tuple[Goal, ...]
    members: tuple[Candidate, ...]
    baseline: Measurements
    objectives: tuple[Goal, ...]
    reference: tuple[float, ...]
    hypervolume: float

    @property
    def glance(self) -> Glance:
        """The members in a few lines."""
        names = ("accuracy_drop", "sqnr_db", *(axis.measurement for axis in self.axes[1:]))
        rows = [
            (
                str(item.number),
                *(f"{item.measurements[name].value:.4g}" for name in names),
                ", ".join(f"{count} {scheme}" for scheme, count in item.plan.counts().items()),
            )
            for item in self.members
        ]
        return Glance(f"frontier of {len(rows)} candidates", ("#", *names, "ops"), rows)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.members)

    def __getitem__(self, index: int) -> Candidate:
        return self.members[index]

    def within(self, max_drop: float | None) -> tuple[Candidate, ...]:
        """The members that drop at most so much; None: all."""
        return tuple(
            item
            for item in self.members
            if max_drop is None or item.value("accuracy_drop") <= max_drop
        )

    def pick(self, max_drop: float | None) -> Candidate | None:
        """The cheapest member within a drop.

        Of those that are as cheap within noise, and drop no more, the one of least output error.
        """
        allowed = self.within(max_drop)
        equal = [
            item
            for item in allowed
            if is_as_cheap(item, allowed[0], self.axes[1:])
            and item.value("accuracy_drop") <= allowed[0].value("accuracy_drop")
        ]
        return min(
            equal, key=lambda item: Objective.OUTPUT_ERROR.loss(item.measurements), default=None
        )


def is_as_cheap(candidate: Candidate, other: Candidate, costs: Sequence[Goal]) -> bool:
    """Whether a candidate is no dearer in any cost, or not further than the 95% interval.

    Speeds are compared over the float plan that both were paired with, where there is one: how fast
    that is over fp32 has an error too, which is common to both and tells nothing of the two.
    """
    for axis in costs:
        found = [item.measurements for item in (candidate, other)]
        paired = axis is Objective.LATENCY and all(FLOAT_SPEEDUP.name in item for item in found)
        quantity = FLOAT_SPEEDUP if paired else axis.quantity
        first, second = (item[quantity.name] for item in found)
        dearer = first.value - second.value
        if quantity.higher_is_better:
            dearer = -dearer
        if dearer > NOISE_Z * math.hypot(first.stderr or 0.0, second.stderr or 0.0):
            return False
    return True


def find_frontier(
    candidates: Iterable[Candidate],
    baseline: Measurements,
    objectives: Sequence[Goal],
) -> Frontier:
    """Keep the candidates that none beats.

    Quality objectives become one axis, the accuracy drop, in which a tie (a difference within
    its 95% interval) is broken by the output error; every cost objective is an axis of its
    own. The reference point of the hypervolume is the worst loss of each objective among the
    candidates given.

    Args:
        candidates: Those within the constraints. Ones that failed, were stopped early or lack an
            axis are passed over.
        baseline: Measurements of the float model.
        objectives: What the sampler minimized.
    """
    growing = GrowingFrontier(objectives)
    growing.extend(candidates)
    return growing.stand(baseline)


_Rank = tuple[float, ...]
"""Place in the walk: costs, output error, number."""


@dataclass(slots=True)
class _Stay:
    """From where to where in the walk a candidate is kept; to its end: None."""

    candidate: Candidate
    begin: _Rank
    end: _Rank | None = None


class GrowingFrontier:
    """The frontier of candidates that come a few at a time: that of them all at once.

    Walks from the cheapest candidate on and drops what an already kept one beats. Comparison
    within noise is not transitive, so the walk has a fixed order: cost, then output error, then
    number. The same candidates give the same frontier in whatever order they come. A candidate that
    is dropped at its place in the walk changes nothing that follows; only for one that is kept the
    walk is taken again.
    """

    def __init__(self, objectives: Sequence[Goal]) -> None:
        self._objectives = tuple(objectives)
        self._axes = (Objective.ACCURACY, *(item for item in objectives if not item.is_quality))
        needed = (*self._axes, *objectives, Objective.OUTPUT_ERROR)
        self._needed = {item.measurement for item in needed}
        self._ranked: list[tuple[_Rank, Candidate]] = []
        self._stays: list[_Stay] = []
        self._losses = np.empty((0, len(self._objectives)))
        self._reference = np.full(len(self._objectives), -np.inf)

    def extend(self, candidates: Iterable[Candidate]) -> None:
        """Take in candidates; those that failed, were stopped or lack an axis are passed over."""
        new = [
            (self._rank(item), item)
            for item in candidates
            if item.stopped is None and self._needed <= item.measurements.keys()
        ]
        if not new:
            return
        self._ranked = sorted([*self._ranked, *new], key=itemgetter(0))
        losses = [[axis.loss(item.measurements) for axis in self._objectives] for _, item in new]
        self._reference = np.maximum(self._reference, np.max(losses, axis=0))
        self._losses = np.concatenate([self._losses, losses])
        self._losses = self._losses[frontier_mask(self._losses)]
        if not all(self._is_dropped(*item) for item in new):
            self._walk()

    def stand(self, baseline: Measurements) -> Frontier:
        """The frontier of what was taken in so far."""
        reference = self._reference if self._ranked else np.zeros(len(self._objectives))
        return Frontier(
            axes=self._axes,
            members=tuple(item.candidate for item in self._stays if item.end is None),
            baseline=baseline,
            objectives=self._objectives,
            reference=tuple(float(value) for value in reference),
            hypervolume=hypervolume(self._losses, reference),
        )

    def _rank(self, candidate: Candidate) -> _Rank:
        costs = [axis.loss(candidate.measurements) for axis in self._axes[1:]]
        return (*costs, Objective.OUTPUT_ERROR.loss(candidate.measurements), candidate.number)

    def _is_dropped(self, rank: _Rank, candidate: Candidate) -> bool:
        """Whether a candidate is beaten by what the walk has kept when it comes to its rank."""
        return any(
            stay.begin < rank
            and (stay.end is None or rank < stay.end)
            and beats(stay.candidate, candidate, self._axes)
            for stay in reversed(self._stays)
        )

    def _walk(self) -> None:
        """Keep what nothing before it beats, until something after it does.

        What beats a candidate is mostly found among the last that were kept.
        """
        self._stays = []
        kept: list[_Stay] = []
        for rank, candidate in self._ranked:
            if any(beats(stay.candidate, candidate, self._axes) for stay in reversed(kept)):
                continue
            for stay in kept:
                if beats(candidate, stay.candidate, self._axes):
                    stay.end = rank
            new = _Stay(candidate, rank)
            kept = [*(stay for stay in kept if stay.end is None), new]
            self._stays.append(new)


def beats(first: Candidate, second: Candidate, axes: Sequence[Goal]) -> bool:
    """Whether `first` is worse on no axis, and better on one or, all tied, the earlier."""
    orders = [compare(first.measurements, second.measurements, axis) for axis in axes]
    if any(order is Order.WORSE for order in orders):
        return False
    if any(order is Order.BETTER for order in orders):
        return True
    return first.number < second.number


def compare(first: Measurements, second: Measurements, axis: Goal) -> Order:
    """Compare on one axis.

    Accuracies within the 95% interval of their difference are a tie, which SQNR breaks. The
    interval adds the two variances as if independent; both were paired with float on the same
    samples, so they are positively correlated and the interval is wide: a tie is declared rather
    too often than too rarely. Costs compare as they were measured: a tie within noise would let
    a chain of near-equal candidates drop the fastest one.
    """
    name = axis.measurement
    noise = 0.0
    if axis is Objective.ACCURACY:
        noise = NOISE_Z * math.hypot(first[name].stderr or 0.0, second[name].stderr or 0.0)
    gain = axis.loss(second) - axis.loss(first)
    if gain > noise:
        return Order.BETTER
    if gain < -noise:
        return Order.WORSE
    if axis is Objective.ACCURACY:
        return compare(first, second, Objective.OUTPUT_ERROR)
    return Order.TIE
