"""Additive costs come back from the parts of a few plans."""

from __future__ import annotations

import itertools
import random

import pytest

from autoquant.backends.boundaries import Parts
from autoquant.backends.cost_fit import TimedPlan, fit_costs
from autoquant.backends.cover import covering_plans
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace

SCHEMES = (Scheme.INT8, Scheme.BF16, Scheme.FP32)
NAMES = [f"op{index}" for index in range(12)]
EDGES = list(itertools.pairwise(NAMES))
SPACE = SearchSpace(tuple(Knob(name, (name,), SCHEMES) for name in NAMES))
ELEMENTS = {name: 100 * (1 + index) for index, name in enumerate(NAMES)}
SLOPES = {pair: 1e-4 * (1 + n) for n, pair in enumerate(itertools.permutations(SCHEMES, 2))}
OPS = {
    (name, scheme): (1.0 + index) * (1.0 + rank)
    for index, name in enumerate(NAMES)
    for rank, scheme in enumerate(SCHEMES)
}
FASTER_AFTER_INT8 = 0.8


def timed(plan: Plan, *, layouts: bool = False) -> TimedPlan:
    """A plan's true parts; with `layouts`, a bf16 op after an int8 one is faster."""
    ops = {name: OPS[name, plan[name]] for name in NAMES}
    if layouts:
        for before, after in EDGES:
            if plan[before] is Scheme.INT8 and plan[after] is Scheme.BF16:
                ops[after] *= FASTER_AFTER_INT8
    edges = {
        (a, b): 0.05 + SLOPES[plan[a], plan[b]] * ELEMENTS[a]
        for a, b in EDGES
        if plan[a] is not plan[b]
    }
    return TimedPlan(plan, Parts(ops, edges, 0.25))


def total(plan: Plan, *, layouts: bool = False) -> float:
    parts = timed(plan, layouts=layouts).parts
    return sum(parts.ops.values()) + sum(parts.edges.values()) + parts.rest


def drawn(count: int, seed: int) -> list[Plan]:
    draw = random.Random(seed)
    return [SPACE.plan({name: draw.choice(SCHEMES) for name in NAMES}) for _ in range(count)]


COVERING = covering_plans(SPACE, EDGES, random.Random(0), least=12, most=32)


def test_additive_costs_come_back_exactly() -> None:
    table = fit_costs([timed(plan) for plan in COVERING], SPACE, EDGES, ELEMENTS)
    for plan in drawn(50, 1):
        assert table.predict(plan) == pytest.approx(total(plan))


def test_boundaries_that_no_plan_shows_follow_from_the_size_of_the_tensor() -> None:
    few = [timed(plan) for plan in [SPACE.uniform(scheme) for scheme in SCHEMES] + drawn(6, 2)]
    shown = {(edge, item.plan[edge[0]], item.plan[edge[1]]) for item in few for edge in EDGES}
    assert len(shown) < len(EDGES) * 9
    table = fit_costs(few, SPACE, EDGES, ELEMENTS)
    for plan in drawn(50, 1):
        assert table.predict(plan) == pytest.approx(total(plan))


def test_what_a_writer_does_to_its_reader_is_part_of_the_boundary() -> None:
    table = fit_costs([timed(plan, layouts=True) for plan in COVERING], SPACE, EDGES, ELEMENTS)
    errors = [table.predict(plan) / total(plan, layouts=True) - 1.0 for plan in drawn(50, 1)]
    blind = [total(plan) / total(plan, layouts=True) - 1.0 for plan in drawn(50, 1)]
    # what shrinking takes off the effect remains
    assert max(map(abs, errors)) < 0.25 * max(map(abs, blind))


def test_an_op_that_no_plan_shows_takes_the_ratio_of_the_others() -> None:
    plans = [SPACE.uniform(Scheme.FP32), SPACE.uniform(Scheme.BF16)]
    half = SPACE.plan({name: SCHEMES[0 if n > 0 else 2] for n, name in enumerate(NAMES)})
    table = fit_costs([timed(plan) for plan in [*plans, half]], SPACE, EDGES, ELEMENTS)
    assert table.ops["op0", Scheme.INT8] == pytest.approx(OPS["op0", Scheme.INT8])


def test_a_scheme_whose_every_plan_was_refused_costs_what_the_most_precise_does() -> None:
    plans = [Plan.of(dict.fromkeys(NAMES, scheme)) for scheme in (Scheme.BF16, Scheme.FP32)]
    table = fit_costs([timed(plan) for plan in plans], SPACE, EDGES, ELEMENTS)
    assert table.ops["op3", Scheme.INT8] == pytest.approx(OPS["op3", Scheme.FP32])


def test_a_site_that_is_seen_in_no_scheme_is_refused() -> None:
    plan = Plan.of(dict.fromkeys(NAMES, Scheme.FP16))
    shown = TimedPlan(plan, Parts({}, {}, 0.25))
    with pytest.raises(ValueError, match="what 'op0' costs"):
        fit_costs([shown], SPACE, EDGES, ELEMENTS)
