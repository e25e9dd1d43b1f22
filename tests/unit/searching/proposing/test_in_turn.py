"""Every cost guides: seeds of each, and proposals in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.objectives import Objective, OwnObjective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.searching.costing.cost_model import CostModel
from autoquant.searching.proposing.guided import CostAxis, Guide
from autoquant.searching.proposing.in_turn import InTurn
from autoquant.searching.proposing.refusals import Taken

NAMES = tuple(f"op{index:02}" for index in range(12))
PAIR = (Scheme.INT8, Scheme.FP32)
SPACE = SearchSpace(tuple(Knob(name, (name,), PAIR) for name in NAMES))
ENERGY = OwnObjective("energy", "mJ")


def table(costs: Sequence[float]) -> CostTable:
    """What an op costs in fp32, and a quarter of that in int8."""
    pairs = zip(NAMES, costs, strict=True)
    ops = {(n, s): c if s is Scheme.FP32 else c / 4 for n, c in pairs for s in PAIR}
    return CostTable(0.0, ops)


SIZES = table([1.0] * 6 + [0.0] * 6)
JOULES = table([0.0] * 6 + [1.0] * 6)
NOISE = CostTable(0.0, {(n, s): 1e-3 * (s is Scheme.INT8) for n in NAMES for s in PAIR})


def measured(number: int, plan: Plan) -> Candidate:
    values = {
        "sqnr_db": -10 * np.log10(NOISE.predict(plan) + 1e-9),
        "size_bytes": SIZES.predict(plan),
        "energy": JOULES.predict(plan),
    }
    found = {name: Measurement(float(item), Kind.ESTIMATED) for name, item in values.items()}
    return Candidate(number, plan, "test", found)


def guide(goal: Objective | OwnObjective, costs: CostTable) -> Guide:
    return Guide(SPACE, CostModel(NOISE), CostAxis(goal, costs))


def test_proposals_in_turn_cut_each_cost() -> None:
    both = InTurn([guide(Objective.SIZE, SIZES), guide(ENERGY, JOULES)])
    asked = [SPACE.uniform(Scheme.FP32), SPACE.uniform(Scheme.INT8)]
    for number, plan in enumerate(asked):
        both.observe(measured(number, plan), is_feasible=True)
    random = np.random.default_rng(0)
    for number in range(2, 14):
        plan = both.propose(random, (), set(asked))
        assert plan is not None
        asked.append(plan)
        both.observe(measured(number, plan), is_feasible=True)
    cut = {
        name: [table.predict(asked[0]) - table.predict(plan) for plan in asked[2:]]
        for name, table in (("size", SIZES), ("energy", JOULES))
    }
    assert sum(item > 0 for item in cut["size"]) >= 4
    assert sum(item > 0 for item in cut["energy"]) >= 4


class Fixed:
    """Proposes one plan, or none."""

    def __init__(self, plan: Plan | None) -> None:
        self.plan = plan

    def observe(self, candidate: Candidate, *, is_feasible: bool) -> None:
        """Take in nothing."""

    def propose(
        self,
        random: np.random.Generator,  # noqa: ARG002
        pending: Sequence[Plan],  # noqa: ARG002
        taken: Taken,  # noqa: ARG002
    ) -> Plan | None:
        return self.plan


@pytest.mark.parametrize("asked", range(4))
def test_whose_turn_it_is_follows_from_what_was_asked(asked: int) -> None:
    plans = [SPACE.uniform(scheme) for scheme in PAIR]
    turns = InTurn([Fixed(plans[0]), Fixed(None), Fixed(plans[1])])
    taken = [plans[0]] * asked
    expected = plans[0] if asked % 3 == 0 else plans[1]
    assert turns.propose(np.random.default_rng(0), (), taken) == expected
