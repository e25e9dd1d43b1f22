"""Optuna's samplers draw whole, new plans, from as little as the window shows them."""

from __future__ import annotations

import numpy as np
import pytest

from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.job import Constraints
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.sampled import BLOCK, SAMPLERS, SampledPlans
from tests.spaces import random_plan
from tests.unit.searching.test_resume import space_of

KNOBS = 2 * BLOCK
SPACE = space_of(KNOBS)


def proposer(sampler: str) -> SampledPlans:
    objectives = (Objective.OUTPUT_ERROR, Objective.BOPS)
    limits = Limits(Constraints(accuracy_drop=0.01), {})
    return SampledPlans(SPACE, objectives, limits, SAMPLERS[sampler])


def candidate(number: int, plan: Plan) -> Candidate:
    counts = plan.counts()
    values = {
        "sqnr_db": -counts.get("int8", 0),
        "accuracy_drop": counts.get("int8", 0) / 1e4,
        "bops_ratio": counts.get("fp32", 0),
    }
    return Candidate(
        number, plan, "test", {name: Measurement(v, Kind.EMULATED) for name, v in values.items()}
    )


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_plans_are_new(sampler: str) -> None:
    plans = proposer(sampler)
    told = [random_plan(SPACE, seed) for seed in range(40)]
    for number, plan in enumerate(told):
        plans.observe(candidate(number, plan), is_feasible=True)
    taken = set(told)
    drawn = plans.propose(np.random.default_rng(0), told[:3], taken)
    assert drawn is not None
    assert drawn not in taken
    assert SPACE.choices(drawn)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_at_most_a_block_of_a_frontier_plan_is_changed(sampler: str) -> None:
    plans = proposer(sampler)
    only = random_plan(SPACE, 1)
    plans.observe(candidate(0, only), is_feasible=True)
    drawn = plans.propose(np.random.default_rng(0), [], set())
    assert drawn is not None
    changed = [site for site, scheme in drawn.assignment if only[site] is not scheme]
    assert 0 < len(changed) <= BLOCK


def test_without_any_candidate_plans_are_drawn_at_random() -> None:
    drawn = proposer("tpe").propose(np.random.default_rng(0), [], set())
    assert drawn is not None
    assert len(drawn.counts()) == len(SPACE.schemes)


def test_a_space_that_is_taken_gives_none() -> None:
    class Everything(set[Plan]):
        def __contains__(self, plan: object) -> bool:
            return True

    assert proposer("tpe").propose(np.random.default_rng(0), [], Everything()) is None


def test_what_failed_teaches_nothing() -> None:
    plans = proposer("tpe")
    plans.observe(Candidate(0, SPACE.uniform(Scheme.INT8), "test"), is_feasible=False)
    drawn = plans.propose(np.random.default_rng(0), [], set())
    fresh = proposer("tpe").propose(np.random.default_rng(0), [], set())
    assert drawn == fresh
