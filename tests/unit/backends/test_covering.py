"""A few plans show every choice beside every choice of its neighbours."""

from __future__ import annotations

import itertools
import random

import pytest

from autoquant.backends.cover import covering_plans
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace

THREE = (Scheme.INT8, Scheme.BF16, Scheme.FP32)
FOUR = (Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.BF16, Scheme.FP32)


def chain(length: int) -> tuple[SearchSpace, list[tuple[str, str]]]:
    """Knobs in a chain, each also read by the next but one; every fifth has a fourth scheme."""
    names = [f"op{index}" for index in range(length)]
    knobs = tuple(
        Knob(name, (name,), THREE if index % 5 else FOUR) for index, name in enumerate(names)
    )
    edges = [*itertools.pairwise(names), *zip(names, names[2:], strict=False)]
    return SearchSpace(knobs), edges


@pytest.mark.parametrize("length", [1, 2, 30, 300])
def test_every_pair_of_neighbours_is_seen_in_a_few_plans(length: int) -> None:
    space, edges = chain(length)
    plans = covering_plans(space, edges, random.Random(0), least=0, most=32)
    seen = {(edge, plan[edge[0]], plan[edge[1]]) for plan in plans for edge in edges}
    wanted = {
        (edge, first, second)
        for edge in edges
        for first in space.by_name[edge[0]].schemes
        for second in space.by_name[edge[1]].schemes
    }
    assert seen == wanted
    assert len(plans) <= 4 + 2 * 4**2


def test_every_choice_is_seen_where_nothing_is_connected() -> None:
    space, _ = chain(10)
    plans = covering_plans(space, [], random.Random(0), least=0, most=32)
    assert {(knob.name, plan[knob.name]) for knob in space.knobs for plan in plans} == {
        (knob.name, scheme) for knob in space.knobs for scheme in knob.schemes
    }


def test_the_least_number_of_mixed_plans_is_drawn() -> None:
    space, edges = chain(30)
    assert len(covering_plans(space, edges, random.Random(0), least=30, most=32)) == 4 + 30


def test_sites_that_agree_are_never_torn_apart() -> None:
    space = SearchSpace((Knob("a", ("a", "b"), THREE), Knob("c", ("c",), THREE)))
    for plan in covering_plans(space, [("a", "b"), ("b", "c")], random.Random(0), least=9, most=9):
        assert plan["a"] is plan["b"]
