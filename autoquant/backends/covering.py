"""Few plans in which every choice and every boundary occurs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

_Pair = tuple[str, Scheme, str, Scheme]


def covering_plans(
    space: SearchSpace,
    edges: Iterable[tuple[str, str]],
    draw: random.Random,
    *,
    least: int,
    most: int,
) -> tuple[Plan, ...]:
    """Draw plans in which each knob takes each of its schemes beside each of its neighbours'.

    First the uniform plan of every scheme; then mixed plans, each of which prefers, knob by knob,
    the scheme whose pairs with the neighbours chosen so far were seen least. For knobs of q
    schemes at least q squared plans are needed; twice as many were always enough, whatever the
    number of knobs.

    Args:
        space: The search space.
        edges: (writing site, reading site).
        draw: Breaks ties.
        least: Mixed plans to draw at least.
        most: Mixed plans to stop at, though pairs are still unseen.

    Returns:
        Distinct plans, uniform ones first.
    """
    neighbours = _neighbours(space, edges)
    wanted = {
        (before, first, knob.name, second)
        for knob in space.knobs
        for before in neighbours[knob.name]
        for first in space.by_name[before].schemes
        for second in knob.schemes
    }
    seen: Counter[_Pair] = Counter()
    plans: dict[Plan, None] = {}
    for scheme in space.schemes:
        plan = space.uniform(scheme)
        plans[plan] = None
        seen.update(_pairs(space.choices(plan), neighbours))
    for drawn in range(most):
        if drawn >= least and wanted <= seen.keys():
            break
        choices = _draw(space, neighbours, seen, draw)
        plans[space.plan(choices)] = None
        seen.update(_pairs(choices, neighbours))
    return tuple(plans)


def _neighbours(space: SearchSpace, edges: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """By knob, the earlier knobs that it shares a boundary with."""
    knob_of = {site: knob.name for knob in space.knobs for site in knob.sites}
    order = {knob.name: index for index, knob in enumerate(space.knobs)}
    found: dict[str, dict[str, None]] = {knob.name: {} for knob in space.knobs}
    for ends in edges:
        first, second = sorted((knob_of[site] for site in ends), key=order.__getitem__)
        if first != second:
            found[second][first] = None
    return {name: tuple(before) for name, before in found.items()}


def _draw(
    space: SearchSpace,
    neighbours: dict[str, tuple[str, ...]],
    seen: Counter[_Pair],
    draw: random.Random,
) -> dict[str, Scheme]:
    """Draw one mixed plan, knob by knob in graph order."""
    choices: dict[str, Scheme] = {}
    for knob in space.knobs:

        def novelty(scheme: Scheme, name: str = knob.name) -> float:
            return sum(
                1.0 / (1 + seen[before, choices[before], name, scheme])
                for before in neighbours[name]
            )

        shuffled = draw.sample(knob.schemes, len(knob.schemes))
        choices[knob.name] = max(shuffled, key=novelty)
    return choices


def _pairs(choices: dict[str, Scheme], neighbours: dict[str, tuple[str, ...]]) -> list[_Pair]:
    return [
        (before, choices[before], name, scheme)
        for name, scheme in choices.items()
        for before in neighbours[name]
    ]
