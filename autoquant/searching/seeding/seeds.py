"""Seeds: the plans that any sensible person would try first."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Candidate, noise_ratio
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.raised_plans import raised_scheme, rank_knobs
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.searching.seeding.program.additive import Limit
from autoquant.searching.seeding.program.sweep import sweep_frontier

PROGRAM = "seed:program-"
"""What origins of the program's plans begin with."""

PROGRAM_SEEDS = 12
_LEAST_SEEDS = 4
LADDER_PERCENT = (5, 10, 20, 30, 50, 75)
TEMPLATE = "seed:template-"
"""What origins of the user's own plans begin with."""
_LEAST_SHARE = 0.05
"""A scheme that less of the model can take, of its arithmetic and of its weights, has no plan."""
MENDS = 4
"""Uniform plans that are built once more, without what the engine refused, at most."""
_RAISE_TO = (Scheme.INT16, Scheme.BF16, Scheme.FP16, Scheme.FP32)


@dataclass(frozen=True, slots=True)
class Seed:
    """A plan to try first, and why."""

    plan: Plan
    origin: str


def uniform_plans(space: SearchSpace, sites: Sequence[Site]) -> tuple[Seed, ...]:
    """List the plans that any user asks for: one scheme wherever it is allowed.

    The first is all-fp32, or where no knob can choose it the plan of the most precise schemes;
    then the schemes of the space, cheapest first. A scheme that next to nothing of the model can
    take (weights alone, in a network of convolutions) is none of them.
    """
    return _once(_uniform(space, sites))


def mend_uniform(space: SearchSpace, seed: Seed, refused: Collection[str]) -> Seed | None:
    """Leave out of a uniform plan what an engine refuses there, beside what it may stand.

    Args:
        space: The search space.
        seed: A uniform plan, or one that was mended before.
        refused: The sites that the engine names.

    Returns:
        The plan with these in their most precise schemes; None where they are already.
    """
    choices = space.choices(seed.plan)
    named = [knob for knob in space.knobs if not set(refused).isdisjoint(knob.sites)]
    plan = space.plan({**choices, **{knob.name: knob.schemes[-1] for knob in named}})
    return None if plan == seed.plan else Seed(plan, f"seed:mended-{scheme_of(seed.origin)}")


def scheme_of(origin: str) -> str:
    """The scheme of a uniform plan, mended or not, by its origin (`seed:uniform-int8`)."""
    return origin.rpartition("-")[2]


def seed_plans(
    space: SearchSpace,
    table: SensitivityTable,
    costs: Sequence[CostTable] = (),
    limits: Sequence[Limit] = (),
    *,
    sites: Sequence[Site] = (),
    templates: Sequence[Plan] = (),
    program_seeds: int = PROGRAM_SEEDS,
    ladders: bool = True,
) -> tuple[Seed, ...]:
    """List the seeds: uniform plans, the user's templates, the additive frontier, the ladder.

    The frontier (`sweep_frontier`) trades the table's additive noise for the costs; its
    ends come first, then what halves the widest gap, so that it is covered evenly wherever a
    search is stopped. The ladder starts from the uniform plan of the cheapest scheme and raises its
    k percent most sensitive knobs (by the noise that the scheme alone adds to the output), for
    growing k, to each more precise scheme in turn. Equal plans are listed once, under the first
    origin.

    Args:
        space: The search space.
        table: Sensitivity of its knobs.
        costs: What plans cost, over sites, by each objective: each gives a frontier, and they
            share the places.
        limits: What every plan of the frontier must keep, over sites; uniform plans and the ladder
            are listed whether they keep them or not.
        sites: Of the model; where none are given, each scheme has a uniform plan.
        templates: The user's own plans, of this space.
        program_seeds: How many plans of the frontier at most.
        ladders: Whether there is a ladder.

    Raises:
        PlanError: No plan keeps the limits.
    """
    program = _programs(space, table, costs, limits, program_seeds)
    own = (Seed(plan, f"{TEMPLATE}{place}") for place, plan in enumerate(templates, start=1))
    ladder = _ladder(space, table) if ladders else ()
    return _once([*uniform_plans(space, sites), *own, *program, *ladder])


def _once(seeds: Iterable[Seed]) -> tuple[Seed, ...]:
    """Each plan once, under its first origin."""
    found: dict[str, Seed] = {}
    for seed in seeds:
        found.setdefault(seed.plan.digest, seed)
    return tuple(found.values())


def _uniform(space: SearchSpace, sites: Sequence[Site]) -> Iterator[Seed]:
    has_fp32 = any(Scheme.FP32 in knob.schemes for knob in space.free or space.knobs)
    first = "uniform-fp32" if has_fp32 else "most-precise"
    yield Seed(space.uniform(Scheme.FP32), f"seed:{first}")
    for scheme in space.schemes:
        if _is_widespread(scheme, space, sites):
            yield Seed(space.uniform(scheme), f"seed:uniform-{scheme.value}")


def _is_widespread(scheme: Scheme, space: SearchSpace, sites: Sequence[Site]) -> bool:
    """Whether enough of the model's arithmetic, or of its weights, can take a scheme."""
    taking = {name for knob in space.knobs if scheme in knob.schemes for name in knob.sites}
    counts = [(site.macs, site.weight_count, site.name in taking) for site in sites]
    whole = [sum(count[axis] for count in counts) for axis in (0, 1)]
    share = [sum(count[axis] for count in counts if count[2]) for axis in (0, 1)]
    return any(s >= _LEAST_SHARE * w for s, w in zip(share, whole, strict=True))


def _programs(
    space: SearchSpace,
    table: SensitivityTable,
    costs: Sequence[CostTable],
    limits: Sequence[Limit],
    count: int,
) -> Iterator[Seed]:
    """The frontiers of all costs in turn, those of the first with plain numbers."""
    each = max(count // max(len(costs), 1), min(count, _LEAST_SEEDS))

    def frontier(cost: CostTable, prefix: str) -> Iterator[Seed]:
        points = sweep_frontier(space, table.losses(), cost, limits, points=each)
        for place in _halving(len(points)):
            yield Seed(points[place].plan, f"{PROGRAM}{prefix}{place + 1}")

    prefixes = ("", *(f"{place}-" for place in range(2, len(costs) + 1)))
    for seeds in zip_longest(*map(frontier, costs, prefixes)):
        yield from (seed for seed in seeds if seed is not None)


def _halving(count: int) -> Iterator[int]:
    """Give 0 to count - 1: the ends, then the middles of ever shorter gaps.

    >>> list(_halving(6))
    [0, 5, 2, 1, 3, 4]
    """
    yield from range(count)[:: max(count - 1, 1)]
    gaps = deque([(0, count - 1)])
    while gaps:
        low, high = gaps.popleft()
        middle = (low + high) // 2
        if middle > low:
            yield middle
            gaps += [(low, middle), (middle, high)]


def _ladder(space: SearchSpace, table: SensitivityTable) -> Iterator[Seed]:
    base = space.schemes[0]
    ranked = rank_knobs(space, table, base)
    start = {knob.name: knob.schemes[0] for knob in space.knobs}
    targets = [scheme for scheme in _RAISE_TO if scheme in space.schemes and scheme is not base]
    for percent in LADDER_PERCENT:
        count = max(1, round(len(ranked) * percent / 100))
        for target in targets:
            raised = {knob.name: raised_scheme(knob, target) for knob in ranked[:count]}
            plan = space.plan({**start, **raised})
            yield Seed(plan, f"seed:ladder-{base.value}-to-{target.value}-{percent}%")


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
    measured; predicted noise is scaled so that it agrees with the noisiest of them. One that lies
    just above the limit comes first, since the estimate is rough, then those below, cheapest first.
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
    return (*above[:1], *below)[:BEST_FEW]


def _noise(candidate: Candidate) -> float:
    return noise_ratio(candidate.value("sqnr_db"))


def _noise_at(limit: float, measured: Sequence[Candidate]) -> float:
    """Noise at which a drop that grows with the noise's amplitude reaches the limit."""
    pairs = [(math.sqrt(_noise(item)), item.value("accuracy_drop")) for item in measured]
    slope = sum(a * drop for a, drop in pairs) / sum(a * a for a, _ in pairs)
    return math.inf if slope <= 0.0 else (limit / slope) ** 2
