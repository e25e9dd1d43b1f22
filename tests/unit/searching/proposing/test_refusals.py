"""What an engine refuses is found out from the plans that failed, and is not asked for again."""

from __future__ import annotations

import random

import pytest

from autoquant.core.json_values import value_of
from autoquant.core.measurement import Candidate, Failure
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.searching.proposing.refusals import Refusals

F, B, I8 = Scheme.FP32, Scheme.BF16, Scheme.INT8
NAMES = ("a", "b", "c", "d")
SPACE = SearchSpace(tuple(Knob(name, (name,), (I8, B, F)) for name in NAMES))
EDGES = (("a", "b"), ("b", "c"), ("c", "d"))


def plan(*schemes: Scheme) -> Plan:
    return Plan.of(dict(zip(NAMES, schemes, strict=True)))


def worked(*schemes: Scheme) -> Candidate:
    return Candidate(0, plan(*schemes), "test")


def refused(*schemes: Scheme, at: tuple[str, ...] = ()) -> Candidate:
    return Candidate(0, plan(*schemes), "test", failure=Failure("no kernel", refused=at))


def taught(*candidates: Candidate) -> Refusals:
    found = Refusals(SPACE, EDGES)
    for candidate in candidates:
        found.learn(candidate)
    return found


def test_the_same_surroundings_are_refused_whatever_is_chosen_elsewhere() -> None:
    known = taught(worked(F, F, F, F), worked(I8, I8, I8, I8), refused(I8, I8, F, F, at=("b",)))
    assert known.forbid(plan(I8, I8, F, B))
    assert known.forbid(plan(B, I8, F, I8))  # b beside a in int8 worked, so c is what is refused
    assert not known.forbid(plan(F, F, I8, I8))


def test_a_choice_that_never_worked_is_left_with_its_surroundings() -> None:
    known = taught(worked(F, F, F, F), refused(F, B, F, F, at=("b",)))
    assert known.forbid(plan(F, B, F, I8))
    assert not known.forbid(plan(I8, B, F, F))  # perhaps it works beside int8


def test_a_plan_that_works_clears_what_it_holds() -> None:
    known = taught(refused(I8, B, F, F, at=("b",)), worked(F, B, F, F))
    assert known.forbid(plan(I8, B, I8, I8))
    assert not known.forbid(plan(F, B, I8, I8))


def test_pairs_far_apart_are_suspected_once_nothing_beside_is_left() -> None:
    known = taught(worked(F, F, F, F), worked(I8, F, F, B), refused(F, F, F, B, at=("a",)))
    assert known.forbid(plan(F, I8, I8, B))
    assert not known.forbid(plan(I8, F, F, B))


@pytest.mark.parametrize(
    "failure",
    [Failure("its worker died", transient=True), Failure("NaN in the outputs")],
    ids=["transient", "numerics"],
)
def test_other_failures_rule_nothing_out(failure: Failure) -> None:
    known = taught(Candidate(0, plan(I8, I8, I8, I8), "test", failure=failure))
    assert not known.forbid(plan(I8, I8, I8, I8))


def test_an_unnamed_refusal_is_found_too() -> None:
    known = taught(worked(F, F, F, F), worked(I8, I8, I8, F), refused(I8, I8, I8, I8))
    assert known.forbid(plan(F, F, I8, I8))


@pytest.mark.parametrize("seed", range(40))
def test_what_is_ruled_out_is_refused(seed: int) -> None:
    draw = random.Random(seed)
    edge, pair = draw.choice(EDGES), (draw.choice([I8, B]), draw.choice([I8, B, F]))
    known = Refusals(SPACE, EDGES)

    def is_refused(item: Plan) -> bool:
        return (item[edge[0]], item[edge[1]]) == pair

    failures = 0
    for _ in range(120):
        item = plan(*(draw.choice([I8, B, F]) for _ in NAMES))
        if known.forbid(item):
            assert is_refused(item)
        elif is_refused(item):
            failures += 1
            failure = Failure("no", refused=(draw.choice(edge),))
            known.learn(Candidate(0, item, "test", failure=failure))
        else:
            known.learn(Candidate(0, item, "test"))
    assert failures <= 4


def test_a_failure_of_an_engine_is_read_back_with_its_sites() -> None:
    for refused_at in (None, (), ("a", "b")):
        failure = Failure("no", refused=refused_at)
        assert value_of(Failure, failure.to_json()) == failure
    assert value_of(Failure, {"reason": "no", "transient": False}) == Failure("no")
