"""Seeds: each plan once, the additive model's frontier among them."""

from __future__ import annotations

import itertools

import pytest

from autoquant.core.costs import CostTable
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import PlanError
from autoquant.searching.seeding.program.additive import Limit
from autoquant.searching.seeding.seeds import PROGRAM_SEEDS, Seed, mend_uniform, seed_plans
from tests.unit.searching.test_resume import SCHEMES, space_of, table_of

SPACE = space_of(8)
TABLE = table_of(SPACE)
COSTS = CostTable(
    0.0,
    {
        (knob.name, scheme): scheme.activation.bits * (1.0 + i % 3)
        for i, knob in enumerate(SPACE.knobs)
        for scheme in SCHEMES
    },
    {
        (writer.name, reader.name): {(a, b): 0.5 for a in SCHEMES for b in SCHEMES if a is not b}
        for writer, reader in itertools.pairwise(SPACE.knobs)
    },
)
SHARE = CostTable(
    0.0, {(k.name, s): (s is Scheme.INT16) / 8 for k in SPACE.knobs for s in SCHEMES}, unit=""
)


def of_program(seeds: tuple[Seed, ...]) -> list[Seed]:
    return [seed for seed in seeds if seed.origin.startswith("seed:program-")]


def test_a_uniform_plan_is_mended_where_an_engine_refuses_it() -> None:
    uniform = Seed(SPACE.uniform(Scheme.INT8), "seed:uniform-int8")
    mended = mend_uniform(SPACE, uniform, ["k2", "elsewhere"])
    assert mended is not None
    assert mended.origin == "seed:mended-int8"
    changed = dict(set(mended.plan.assignment) - set(uniform.plan.assignment))
    assert changed == {"k2": SPACE.knobs[2].schemes[-1]}
    assert mend_uniform(SPACE, mended, ["k2"]) is None


def test_templates_have_their_numbers_and_one_that_is_uniform_is_listed_as_that() -> None:
    mixed = SPACE.plan({knob.name: SCHEMES[place % 2] for place, knob in enumerate(SPACE.knobs)})
    templates = (SPACE.uniform(Scheme.INT8), mixed)
    origins = {seed.plan: seed.origin for seed in seed_plans(SPACE, TABLE, templates=templates)}
    assert origins[mixed] == "seed:template-2"
    assert origins[templates[0]] == "seed:uniform-int8"


def test_without_costs_there_are_uniform_plans_and_the_ladder() -> None:
    origins = {seed.origin.partition(":")[2].partition("-")[0] for seed in seed_plans(SPACE, TABLE)}
    assert origins == {"uniform", "ladder"}


def test_only_a_plan_of_fp32_is_called_so() -> None:
    narrow = SearchSpace(
        tuple(Knob(knob.name, knob.sites, (Scheme.INT8, Scheme.INT16)) for knob in SPACE.knobs)
    )
    assert seed_plans(SPACE, TABLE)[0].origin == "seed:uniform-fp32"
    first = seed_plans(narrow, TABLE)[0]
    assert first.origin == "seed:most-precise"
    assert set(first.plan.schemes.values()) == {Scheme.INT16}


def test_the_frontier_comes_right_after_fp32() -> None:
    kinds = [
        s.origin.partition(":")[2].partition("-")[0] for s in seed_plans(SPACE, TABLE, (COSTS,))
    ]
    grouped = [kind for kind, _ in itertools.groupby(kinds)]
    assert grouped[:2] == ["uniform", "program"]
    assert grouped[-1] == "ladder"


def test_the_frontier_is_covered_from_its_ends_inwards() -> None:
    seeds = seed_plans(SPACE, TABLE, (COSTS,))
    found = [s for s in seeds if "ladder" not in s.origin and s.origin != "seed:uniform-fp32"]
    costs = [COSTS.predict(seed.plan) for seed in found]
    rising = sorted(costs)
    assert len(costs) > 3
    assert costs[0] == rising[0]
    assert costs[1] in rising[len(rising) // 3 :]  # the other end is all-fp32, the first seed


def test_program_plans_are_numbered_from_the_cheapest_on() -> None:
    found = of_program(seed_plans(SPACE, TABLE, (COSTS,)))
    found.sort(key=lambda seed: int(seed.origin.rpartition("-")[2]))
    costs = [COSTS.predict(seed.plan) for seed in found]
    assert costs == sorted(costs)
    assert 3 <= len(costs) <= PROGRAM_SEEDS


def test_no_plan_is_listed_twice() -> None:
    seeds = seed_plans(SPACE, TABLE, (COSTS,))
    assert len({seed.plan.digest for seed in seeds}) == len(seeds)


def test_plans_of_the_frontier_keep_the_limits() -> None:
    limits = (Limit("share of int16", SHARE, 0.25),)
    seeds = of_program(seed_plans(SPACE, TABLE, (COSTS,), limits, program_seeds=6))
    assert 3 <= len(seeds) <= 6
    assert max(SHARE.predict(seed.plan) for seed in seeds) <= 0.25


def test_limits_that_no_plan_keeps_are_refused() -> None:
    with pytest.raises(PlanError, match="limit on cost: 1 ms is below"):
        seed_plans(SPACE, TABLE, (COSTS,), (Limit("cost", COSTS, 1.0),))


def test_each_cost_gives_seeds_that_take_their_turns() -> None:
    dear_first = {
        key: 10.0 * (key[0] == SPACE.knobs[0].name) * (key[1] is Scheme.FP32) for key in COSTS.ops
    }
    other = CostTable(0.0, dear_first)
    alone = of_program(seed_plans(SPACE, TABLE, (other,), program_seeds=6))
    both = seed_plans(SPACE, TABLE, (COSTS, other), program_seeds=12)
    second = [seed.plan for seed in both if seed.origin.startswith("seed:program-2-")]
    assert set(second) <= {seed.plan for seed in alone}  # as many as the cost gives alone
    assert second
