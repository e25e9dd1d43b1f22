"""Of the program's plans the few that are likely the fastest within the accuracy limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Candidate, noise_ratio
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.searching.seeding.seeds import Seed

BEST_FEW = 4


def best_few(
    seeds: Sequence[Seed],
    space: SearchSpace,
    noise: CostTable,
    costs: CostTable,
    measured: Sequence[Candidate],
    limit: float | None,
) -> tuple[Seed, ...]:
    """Choose a few plans around the noise at which accuracy is expected to reach its limit.

    Accuracy is taken to fall with the amplitude of the output noise, by the uniform plans that were
    measured; predicted noise is scaled so that it agrees with the noisiest of them. The cheapest
    plans below the limit come first, and one that lies just above, since the estimate is rough.
    """
    known = [item for item in measured if {"sqnr_db", "accuracy_drop"} <= set(item.measurements)]
    noisiest = max(known, key=lambda item: -item.value("sqnr_db"), default=None)
    if limit is None or noisiest is None:
        return tuple(seeds[:BEST_FEW])

    def predicted(plan: Plan, table: CostTable) -> float:
        return table.predict(Plan.of(space.choices(plan)))

    scale = _noise(noisiest) / max(predicted(noisiest.plan, noise), 1e-30)
    most = _noise_at(limit, known)
    levels = {seed: scale * predicted(seed.plan, noise) for seed in seeds}
    below = sorted(
        (seed for seed in seeds if levels[seed] <= most),
        key=lambda seed: predicted(seed.plan, costs),
    )
    above = sorted((seed for seed in seeds if levels[seed] > most), key=levels.__getitem__)
    return tuple([*below[: BEST_FEW - 1], *above[:1], *below[BEST_FEW - 1 :]][:BEST_FEW])


def _noise(candidate: Candidate) -> float:
    return noise_ratio(candidate.value("sqnr_db"))


def _noise_at(limit: float, measured: Sequence[Candidate]) -> float:
    """Noise at which a drop that grows with the noise's amplitude reaches the limit."""
    pairs = [(math.sqrt(_noise(item)), item.value("accuracy_drop")) for item in measured]
    slope = sum(a * drop for a, drop in pairs) / sum(a * a for a, _ in pairs)
    return math.inf if slope <= 0.0 else (limit / slope) ** 2
