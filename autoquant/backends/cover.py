"""A few plans that cover the choices of a space, and the costs that their times say."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from autoquant.backends.boundaries import Edge, Parts, find_edges
from autoquant.backends.cost_fit import TimedPlan, fit_costs
from autoquant.backends.covering import covering_plans
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.model.graph.captured import Capture

_Built = TypeVar("_Built")


@dataclass(frozen=True, slots=True, eq=False)
class Cover:
    """Plans of a space to time, in which every choice and every boundary occurs."""

    captured: Capture
    space: SearchSpace
    edges: tuple[Edge, ...]
    plans: tuple[Plan, ...]

    @classmethod
    def of(
        cls,
        captured: Capture,
        space: SearchSpace,
        *,
        least: int = 12,
        most: int = 32,
        seed: int = 0,
    ) -> Cover:
        """Draw the plans: at least `least` mixed ones beside the uniform, at most `most`."""
        edges = find_edges(captured)
        plans = covering_plans(space, edges, random.Random(seed), least=least, most=most)
        return cls(captured, space, edges, plans)

    def build(self, build: Callable[[Plan], _Built]) -> dict[Plan, _Built]:
        """Build the plans that the engine takes; where it takes none, raise its first refusal."""
        found: dict[Plan, _Built] = {}
        refusals: list[BackendError] = []
        for plan in self.plans:
            try:
                made = build(plan)
            except BackendError as error:
                refusals.append(error)
                continue
            found[plan] = made
        if not found:
            raise refusals[0]
        return found

    def fit(self, timed: Mapping[Plan, Parts]) -> CostTable:
        """Fit the cost of every op and boundary to where the time of each plan goes."""
        elements = {site.name: site.output_elements for site in self.captured.sites}
        plans = [TimedPlan(plan, parts) for plan, parts in timed.items()]
        return fit_costs(plans, self.space, self.edges, elements)
