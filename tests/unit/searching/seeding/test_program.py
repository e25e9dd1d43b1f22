"""The integer program finds what trying every plan finds."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import PlanError
from autoquant.searching.seeding.program.additive import Limit
from autoquant.searching.seeding.program.highs import GAP
from autoquant.searching.seeding.program.sweep import ProgramPoint, sweep_frontier

SCHEMES = (Scheme.INT8, Scheme.INT16, Scheme.BF16, Scheme.FP32)
Tried = list[tuple[float, float]]
EXACT = 1 + GAP + 1e-6
"""The gap to which a minimum is proven, and the solver's own tolerance."""


@dataclass(frozen=True)
class Instance:
    """A small space with losses over twelve decades, costs with edges, and two limits."""

    space: SearchSpace
    losses: dict[tuple[str, Scheme], float]
    costs: CostTable
    size: CostTable
    share: CostTable

    def loss(self, plan: Plan) -> float:
        choices = self.space.choices(plan)
        return sum(self.losses.get(item, 0.0) for item in choices.items())

    def plans(self, *limits: Limit) -> Iterator[Plan]:
        for schemes in itertools.product(*(knob.schemes for knob in self.space.knobs)):
            names = (knob.name for knob in self.space.knobs)
            plan = self.space.plan(dict(zip(names, schemes, strict=True)))
            if all(limit.costs.predict(plan) <= limit.bound + 1e-9 for limit in limits):
                yield plan

    def tried(self, *limits: Limit) -> Tried:
        """Loss and cost of every plan within the limits."""
        return [(self.loss(plan), self.costs.predict(plan)) for plan in self.plans(*limits)]


def least_loss(tried: Tried, budget: float) -> float:
    return min((loss for loss, cost in tried if cost <= budget * (1 + 1e-9)), default=math.inf)


def instance(seed: int, *, knobs: int = 5) -> Instance:
    draw = random.Random(seed)
    names = [f"k{i}" for i in range(knobs)]
    space = SearchSpace(
        tuple(
            Knob(
                name,
                (name, f"{name}.act") if draw.random() < 0.3 else (name,),
                SCHEMES if draw.random() < 0.8 else (draw.choice(SCHEMES),),
            )
            for name in names
        )
    )
    sites = [site for knob in space.knobs for site in knob.sites]
    losses = {
        (knob.name, scheme): 10 ** draw.uniform(-13, -1)
        for knob in space.knobs
        for scheme in SCHEMES[:-1]
    }
    return Instance(
        space,
        losses,
        _table(draw, sites, constant=0.5, edge_count=2 * knobs),
        _table(draw, sites, constant=100.0, edge_count=0),
        CostTable(
            0.0,
            {(site, s): (s is Scheme.INT16) / len(sites) for site in sites for s in SCHEMES},
        ),
    )


def _table(draw: random.Random, sites: list[str], *, constant: float, edge_count: int) -> CostTable:
    ops = {(site, scheme): draw.uniform(0.1, 3.0) for site in sites for scheme in SCHEMES}
    edges = {}
    for _ in range(edge_count if len(sites) > 1 else 0):
        writer, reader = draw.sample(sites, 2)
        edges[writer, reader] = {
            (before, after): draw.uniform(-0.1, 1.0)
            for before in SCHEMES
            for after in SCHEMES
            if before is not after
        }
    return CostTable(constant, ops, edges)


@pytest.mark.slow
@given(st.integers(0, 10**9), st.floats(0.05, 1), st.floats(0, 0.5))
@settings(max_examples=20, deadline=None)
def test_limits_are_kept_and_lose_no_more_than_they_must(
    seed: int, share: float, int16: float
) -> None:
    case = instance(seed)
    sizes = [case.size.predict(plan) for plan in case.plans()]
    pinned = sum(len(k.sites) for k in case.space.knobs if k.schemes == (Scheme.INT16,))
    count = sum(len(knob.sites) for knob in case.space.knobs)
    limits = (
        Limit("size", case.size, min(sizes) + share * (max(sizes) - min(sizes))),
        Limit("share of int16", case.share, max(int16, pinned / count)),
    )
    kept = list(case.plans(*limits))
    if not kept:
        with pytest.raises(PlanError, match="limit on"):
            sweep_frontier(case.space, case.losses, case.costs, limits, points=6)
        return
    tried = case.tried(*limits)
    for point in sweep_frontier(case.space, case.losses, case.costs, limits, points=6):
        assert point.plan in kept
        assert point.loss <= least_loss(tried, point.cost) * EXACT


@pytest.mark.slow
@given(st.integers(0, 10**9))
@settings(max_examples=20, deadline=None)
def test_the_frontier_runs_from_the_cheapest_plan_to_the_least_noisy(seed: int) -> None:
    case = instance(seed)
    points = sweep_frontier(case.space, case.losses, case.costs, points=8)
    tried = case.tried()
    cheapest = min(cost for _, cost in tried)
    assert points[0].cost == pytest.approx(cheapest, rel=1e-6)
    assert points[0].loss <= least_loss(tried, cheapest * (1 + 1e-9)) * EXACT
    assert points[-1].loss <= min(loss for loss, _ in tried) * EXACT
    for before, after in itertools.pairwise(points):
        assert before.cost < after.cost
        assert before.loss > after.loss
    for point in points:
        assert point.cost == pytest.approx(case.costs.predict(point.plan), rel=1e-9)
        assert point.loss == pytest.approx(case.loss(point.plan), rel=1e-9)
        assert point.loss <= least_loss(tried, point.cost) * EXACT


def test_all_points_of_a_small_frontier_are_found() -> None:
    knobs = tuple(Knob(f"k{i}", (f"k{i}",), (Scheme.INT8, Scheme.FP32)) for i in range(3))
    space = SearchSpace(knobs)
    losses = {(f"k{i}", Scheme.INT8): 1000.0**-i for i in range(3)}
    costs = CostTable(
        0.0,
        {(f"k{i}", s): 1.0 + (s is Scheme.FP32) for i in range(3) for s in knobs[0].schemes},
    )
    points = sweep_frontier(space, losses, costs)
    assert [point.cost for point in points] == [3.0, 4.0, 5.0, 6.0]
    assert [point.loss for point in points] == pytest.approx([1.001001, 0.001001, 1e-6, 0.0])


def test_pinned_knobs_keep_their_scheme() -> None:
    case = instance(3, knobs=6)
    pinned = case.space.knobs[2]
    space = SearchSpace(
        tuple(
            Knob(knob.name, knob.sites, (Scheme.INT16,)) if knob is pinned else knob
            for knob in case.space.knobs
        )
    )
    points: tuple[ProgramPoint, ...] = sweep_frontier(space, case.losses, case.costs)
    assert {point.plan[site] for point in points for site in pinned.sites} == {Scheme.INT16}


def test_a_scheme_whose_loss_is_not_finite_is_never_taken() -> None:
    case = instance(5)
    losses = {
        item: math.inf if item[1] is Scheme.INT8 else loss for item, loss in case.losses.items()
    }
    free = [knob for knob in case.space.knobs if len(knob.schemes) > 1]
    for point in sweep_frontier(case.space, losses, case.costs, points=5):
        assert all(point.plan[knob.name] is not Scheme.INT8 for knob in free)


def test_a_limit_that_no_plan_keeps_is_named_with_the_least_that_is_reachable() -> None:
    case = instance(7)
    least = min(case.size.predict(plan) for plan in case.plans())
    limits = (Limit("share of int16", case.share, 1.0), Limit("size", case.size, 7.0))
    message = rf"limit on size: 7 ms is below {least:.6g} ms.* within the limits on share of int16"
    with pytest.raises(PlanError, match=message):
        sweep_frontier(case.space, case.losses, case.costs, limits)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    case = instance(11, knobs=7)
    sweep_frontier(case.space, case.losses, case.costs, points=5)
    assert capfd.readouterr().out == ""
