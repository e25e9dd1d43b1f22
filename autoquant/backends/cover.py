"""A few plans that cover the choices of a space, and the costs that their times say."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from autoquant.backends.boundaries import Edge, Parts, find_edges
from autoquant.backends.cost_fit import TimedPlan, fit_costs
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.model.graph.captured import Capture
from autoquant.model.heap import free_large

_LEAST, _MOST = 12, 32
"""Mixed plans that are timed beside the uniform ones."""

_Built = TypeVar("_Built")
BesideReference = tuple[Parts, tuple[float, ...]]
"""Where the time of a plan goes, as shares of what a reference takes, and the seconds of that."""


@dataclass(frozen=True, slots=True, eq=False)
class Cover:
    """Plans of a space to time, in which every choice and every boundary occurs."""

    captured: Capture
    space: SearchSpace
    edges: tuple[Edge, ...]
    plans: tuple[Plan, ...]

    @classmethod
    def of(cls, captured: Capture, space: SearchSpace) -> Cover:
        """Draw the plans."""
        edges = find_edges(captured)
        plans = covering_plans(space, edges, random.Random(0), least=_LEAST, most=_MOST)
        return cls(captured, space, edges, plans)

    def build(self, build: Callable[[Plan], _Built]) -> dict[Plan, _Built]:
        """Build and time the plans that the engine takes, each in the memory of the one before.

        Raises:
            BackendError: The engine takes none; its first refusal.
        """
        found: dict[Plan, _Built] = {}
        refusals: list[BackendError] = []
        for plan in self.plans:
            free_large(self.captured.float_bytes)
            try:
                made = build(plan)
            except BackendError as error:
                refusals.append(error)
                continue
            found[plan] = made
        if not found:
            raise refusals[0]
        return found

    def fit_beside(self, timed: Mapping[Plan, BesideReference]) -> CostTable:
        """Fit to plans that were timed beside one reference, in milliseconds."""
        factor = reference_ms(timed.values())
        return self.fit({plan: parts.times(factor) for plan, (parts, _) in timed.items()})

    def fit(self, timed: Mapping[Plan, Parts]) -> CostTable:
        """Fit the cost of every op and boundary to where the time of each plan goes."""
        elements = {site.name: site.output_elements for site in self.captured.sites}
        plans = [TimedPlan(plan, parts) for plan, parts in timed.items()]
        return fit_costs(plans, self.space, self.edges, elements)


def reference_ms(timed: Iterable[BesideReference]) -> float:
    """What the reference takes, in the median of all calls."""
    return 1e3 * statistics.median(second for _, seconds in timed for second in seconds)


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
