"""Additive costs: over sites and over knobs they are the same."""

from __future__ import annotations

import itertools

import pytest

from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace

INT8, FP32 = Scheme.INT8, Scheme.FP32
SPACE = SearchSpace(
    (
        Knob("a", ("a", "b"), (INT8, FP32)),
        Knob("c", ("c",), (INT8, FP32)),
        Knob("d", ("d",), (FP32,)),
    )
)
TABLE = CostTable(
    constant=0.5,
    ops={(site, scheme): 1.0 + (scheme is FP32) for site in "abcd" for scheme in (INT8, FP32)},
    edges={
        ("a", "b"): {(INT8, INT8): 0.25, (INT8, FP32): 9.0},
        ("b", "c"): {(INT8, FP32): 0.125, (FP32, INT8): 0.0625},
        ("a", "c"): {(INT8, FP32): 0.03125},
        ("c", "d"): {(INT8, FP32): 0.015625},
    },
)


def test_a_plan_costs_its_ops_and_its_boundaries() -> None:
    plan = Plan.of({"a": INT8, "b": INT8, "c": FP32, "d": FP32})
    assert TABLE.predict(plan) == 0.5 + (1 + 1 + 2 + 2) + 0.25 + 0.125 + 0.03125


@pytest.mark.parametrize("first", [INT8, FP32], ids=lambda item: item.value)
@pytest.mark.parametrize("second", [INT8, FP32], ids=lambda item: item.value)
def test_a_plan_costs_the_same_by_knob(first: Scheme, second: Scheme) -> None:
    plan = SPACE.plan({"a": first, "c": second, "d": FP32})
    choices = Plan.of({"a": first, "c": second, "d": FP32})
    assert TABLE.by_knob(SPACE).predict(choices) == TABLE.predict(plan)


def test_edges_inside_a_knob_become_part_of_it() -> None:
    table = TABLE.by_knob(SPACE)
    assert table.ops["a", INT8] == 2.25
    assert set(table.edges) == {("a", "c"), ("c", "d")}
    every = itertools.chain.from_iterable(pairs for pairs in table.edges.values())
    assert (INT8, INT8) not in set(every)
