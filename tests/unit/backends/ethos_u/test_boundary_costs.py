"""Cycles by op and boundary, and what an additive table makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

pytest.importorskip("ethosu")

from autoquant.backends.litert.ethos_u.attribution import (
    Conversion,
    Operator,
    Parts,
    attribute,
    find_edges,
)
from autoquant.backends.litert.ethos_u.cost_table import EstimatedPlan, fit_costs
from autoquant.backends.litert.ethos_u.vela import Estimate, Step
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace

INT8, INT16 = Scheme.INT8, Scheme.INT16
EDGES = (("a", "b"), ("a", "c"), ("b", "c"))

# conv -> quantize -> reshape -> linear, and conv -> add; the input is transposed first
FILE = (
    Operator((), False, (0,), (1,)),
    Operator(("conv", "relu"), False, (1, 90), (2,)),
    Operator((), True, (2,), (3,)),
    Operator((), False, (3,), (4,)),
    Operator(("linear",), False, (4, 91), (5,)),
    Operator(("add",), False, (2, 5), (6,)),
    Operator((), True, (6,), (7,)),
)


def test_each_cycle_belongs_to_one_site_or_boundary() -> None:
    cycles = (3, 50, 8, 2, 40, 7, 5)
    steps = [Step(index, "op", count) for index, count in enumerate(cycles)]
    parts = attribute(Estimate(116, (*steps, Step(None, "op", 1)), {}), FILE)
    assert parts.ops == {"conv": 53, "linear": 42, "add": 12}
    assert parts.conversions == (Conversion("relu", ("linear",), 8),)
    assert parts.rest == 1


def test_edges_go_through_operators_of_no_site() -> None:
    assert find_edges(FILE) == (("relu", "linear"), ("relu", "add"), ("linear", "add"))


def chain(*names: str) -> SearchSpace:
    return SearchSpace(tuple(Knob(name, (name,), (INT8, INT16)) for name in names))


def estimated(
    space: SearchSpace,
    readers: Mapping[str, tuple[str, ...]],
    costs: Mapping[tuple[Scheme, Scheme], int],
) -> list[EstimatedPlan]:
    """Every plan of a space, where one conversion serves all readers of a tensor."""
    found = []
    for schemes in itertools.product((INT8, INT16), repeat=len(space.knobs)):
        plan = Plan.of({knob.name: s for knob, s in zip(space.knobs, schemes, strict=True)})
        conversions = []
        for writer, names in readers.items():
            wanting = tuple(name for name in names if plan[name] is not plan[writer])
            if wanting:
                cycles = costs[plan[writer], plan[wanting[0]]]
                conversions.append(Conversion(writer, wanting, cycles))
        ops = {knob.name: 100 if plan[knob.name] is INT8 else 150 for knob in space.knobs}
        found.append(EstimatedPlan(plan, Parts(ops, tuple(conversions), 10)))
    return found


def total(item: EstimatedPlan) -> int:
    parts = item.parts
    return sum(parts.ops.values()) + sum(c.cycles for c in parts.conversions) + parts.rest


def test_a_chain_is_predicted_exactly_in_both_directions() -> None:
    space = chain("a", "b", "c")
    items = estimated(space, {"a": ("b",), "b": ("c",)}, {(INT8, INT16): 30, (INT16, INT8): 70})
    table = fit_costs(items, space, EDGES)
    assert [table.predict(item.plan) for item in items] == pytest.approx([*map(total, items)])
    assert (table.unit, table.kind) == ("cycles", Kind.ESTIMATED)


def test_a_conversion_that_readers_share_is_paid_once() -> None:
    space = chain("a", "b", "c")
    items = estimated(space, {"a": ("b", "c")}, {(INT8, INT16): 40, (INT16, INT8): 40})
    table = fit_costs(items, space, EDGES)
    assert [table.predict(item.plan) for item in items] == pytest.approx([*map(total, items)])


def test_shared_conversions_of_unequal_directions_are_off_by_less_than_their_difference() -> None:
    space = chain("a", "b", "c")
    items = estimated(space, {"a": ("b", "c")}, {(INT8, INT16): 40, (INT16, INT8): 80})
    table = fit_costs(items, space, EDGES)
    errors = {item.plan: abs(table.predict(item.plan) - total(item)) for item in items}
    # pairs cannot say the interaction of three schemes, 80 - 40 cycles: it is spread over the
    # plans, the less to each the more it is weighted (16, 4 and 1: shares of 1, 4 and 16 in 74)
    assert sum(errors.values()) == pytest.approx(40)
    assert errors[space.uniform(INT8)] == pytest.approx(40 / 74)
    assert max(errors.values()) == pytest.approx(40 * 16 / 74)


def test_a_change_of_scale_within_a_scheme_belongs_to_its_edge() -> None:
    space = chain("a", "b", "c")
    items = [
        EstimatedPlan(
            item.plan,
            Parts(
                item.parts.ops,
                (*item.parts.conversions, Conversion("b", ("c",), 6))
                if item.plan["b"] is item.plan["c"]
                else item.parts.conversions,
                item.parts.rest,
            ),
        )
        for item in estimated(
            space, {"a": ("b",), "b": ("c",)}, {(INT8, INT16): 30, (INT16, INT8): 70}
        )
    ]
    table = fit_costs(items, space, EDGES)
    assert [table.predict(item.plan) for item in items] == pytest.approx([*map(total, items)])


def test_a_value_of_many_readers_is_still_listed() -> None:
    readers = tuple(f"r{index}" for index in range(13))
    space = chain("a", *readers)
    plans = [
        space.uniform(INT8),
        space.uniform(INT16),
        *(
            space.plan(
                {name: INT16 if (name == "a") is first else INT8 for name in ("a", *readers)}
            )
            for first in (True, False)
        ),
    ]
    items = [
        EstimatedPlan(
            plan,
            Parts(
                dict.fromkeys(("a", *readers), 10),
                () if len(plan.counts()) == 1 else (Conversion("a", readers, 60),),
                0,
            ),
        )
        for plan in plans
    ]
    table = fit_costs(items, space, [("a", reader) for reader in readers])
    # three groups of readers, each with a conversion of its own: between one and three in all
    assert 140 + 60 < table.predict(plans[2]) < 140 + 3 * 60
    assert table.predict(plans[0]) == pytest.approx(140, rel=0.1)


def test_a_scheme_that_no_plan_shows_is_a_mistake_of_the_caller() -> None:
    space = chain("a")
    items = estimated(space, {}, {})
    with pytest.raises(ValueError, match="no plan shows 'a' in int16"):
        fit_costs(items[:1], space, ())
