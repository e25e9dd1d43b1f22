"""The frontier regards measurement noise."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.frontier import GrowingFrontier, Order, beats, compare, find_frontier
from autoquant.core.measurement import Candidate, Failure, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme

OBJECTIVES = (Objective.OUTPUT_ERROR, Objective.LATENCY)


def candidate(
    number: int, drop: float, sqnr: float, speedup: float, drop_stderr: float = 0.0
) -> Candidate:
    values = {
        "accuracy_drop": Measurement(drop, Kind.MEASURED, drop_stderr, 100),
        "sqnr_db": Measurement(sqnr, Kind.MEASURED, 0.0, 100),
        "speedup": Measurement(speedup, Kind.MEASURED, 0.01, 20),
    }
    plan = Plan.of({f"site{number}": Scheme.INT8})
    return Candidate(number, plan, "test", values)


def numbers(*candidates: Candidate) -> list[int]:
    return [item.number for item in find_frontier(candidates, {}, OBJECTIVES)]


def test_a_slower_and_less_accurate_candidate_is_dropped() -> None:
    assert numbers(candidate(0, 0.0, 30, 2.0), candidate(1, 0.02, 20, 1.5)) == [0]


def test_accuracy_within_noise_is_decided_by_output_error() -> None:
    worse = candidate(0, 0.000, 20, 2.0, drop_stderr=0.01)
    better = candidate(1, 0.005, 40, 2.0, drop_stderr=0.01)
    assert numbers(worse, better) == [1]


def test_accuracy_beyond_noise_is_not_overruled_by_output_error() -> None:
    fast = candidate(0, 0.00, 20, 3.0)
    slow = candidate(1, 0.05, 40, 1.0)
    assert numbers(fast, slow) == [0]


def test_the_fastest_is_never_lost_to_a_slightly_slower_and_more_exact_one() -> None:
    chain = [candidate(i, 0.0, 30 + i, 3.0 - 0.01 * i) for i in range(20)]
    assert numbers(*chain)[0] == 0


def test_equal_speeds_are_a_tie() -> None:
    first, second = candidate(0, 0.0, 30, 2.0), candidate(1, 0.0, 20, 2.0)
    assert compare(first.measurements, second.measurements, Objective.LATENCY) is Order.TIE
    assert numbers(first, second) == [0]


def test_the_order_of_candidates_does_not_matter() -> None:
    draw = random.Random(0)
    made = [
        candidate(i, draw.uniform(0, 0.02), draw.uniform(10, 60), draw.uniform(1, 3), 0.004)
        for i in range(30)
    ]
    shuffled = made[:]
    draw.shuffle(shuffled)
    assert numbers(*made) == numbers(*shuffled)
    assert len(numbers(*made)) >= 2


def test_failures_and_unmeasured_candidates_are_passed_over() -> None:
    plan = Plan.of({"a": Scheme.INT8})
    failed = Candidate(5, plan, "test", failure=Failure("broke"))
    assert numbers(candidate(0, 0.0, 30, 2.0), failed) == [0]


def test_members_come_fastest_first() -> None:
    assert numbers(
        candidate(0, 0.0, 60, 1.0), candidate(1, 0.0, 20, 3.0), candidate(2, 0.0, 40, 2.0)
    ) == [1, 2, 0]


def test_an_empty_history_has_an_empty_frontier() -> None:
    frontier = find_frontier([], {}, OBJECTIVES)
    assert len(frontier) == 0
    assert frontier.hypervolume == 0.0


levels = st.integers(0, 3)
rows = st.tuples(levels, levels, levels, st.sampled_from([0.0, 0.3, 0.8]))


@given(made=st.lists(rows, max_size=12), data=st.data())
def test_a_frontier_that_grows_is_that_of_all_candidates_at_once(
    made: list[tuple[int, int, int, float]], data: st.DataObject
) -> None:
    listed = [
        candidate(number, drop, sqnr, 1.0 + speedup, noise)
        for number, (drop, sqnr, speedup, noise) in enumerate(made)
    ]
    growing = GrowingFrontier(OBJECTIVES)
    left = data.draw(st.permutations(listed))
    while left:
        count = data.draw(st.integers(1, len(left)))
        growing.extend(left[:count])
        left = left[count:]
    assert growing.stand({}) == find_frontier(listed, {}, OBJECTIVES)


@given(made=st.lists(rows, max_size=12))
def test_a_frontier_is_what_is_left_of_a_walk_from_the_cheapest(
    made: list[tuple[int, int, int, float]],
) -> None:
    listed = [
        candidate(number, drop, sqnr, 1.0 + speedup, noise)
        for number, (drop, sqnr, speedup, noise) in enumerate(made)
    ]
    axes = (Objective.ACCURACY, Objective.LATENCY)
    kept: list[Candidate] = []
    for item in sorted(listed, key=lambda c: (-c.value("speedup"), -c.value("sqnr_db"), c.number)):
        if not any(beats(other, item, axes) for other in kept):
            kept = [*(other for other in kept if not beats(item, other, axes)), item]
    assert numbers(*listed) == [item.number for item in kept]
