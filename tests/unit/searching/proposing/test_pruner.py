"""What is not measured could not have mattered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.evaluation import Threshold
from autoquant.core.measurement import Candidate, Kind, Measurement, Measurements
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace
from autoquant.job import Constraints
from autoquant.searching.costing.forecast import Forecast
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.pruner import Pruner

PLAN = Plan.of({"a": Scheme.INT8})


def speed(value: float, stderr: float = 0.0) -> Measurements:
    return {"speedup": Measurement(value, Kind.ESTIMATED, stderr=stderr)}


def candidate(
    number: int, sqnr: float, speedup: float | None, drop: float = 0.0, origin: str = "tpe"
) -> Candidate:
    found = {
        "sqnr_db": Measurement(sqnr, Kind.MEASURED, stderr=0.1),
        "accuracy_drop": Measurement(drop, Kind.MEASURED, stderr=0.001),
    }
    if speedup is not None:
        found["speedup"] = Measurement(speedup, Kind.MEASURED, stderr=0.01)
    return Candidate(number, PLAN, origin, found)


def pruner(predicted: Measurements) -> Pruner:
    limits = Limits(Constraints(accuracy_drop=0.01), {})
    costs = Forecast(SearchSpace(()), lambda plan: predicted)
    made = Pruner((Objective.OUTPUT_ERROR, Objective.LATENCY), limits, costs)
    made.learn(candidate(1, 40.0, 2.0))
    made.learn(candidate(2, 30.0, 3.0))
    made.learn(candidate(3, 60.0, 3.5, drop=0.5))
    return made


def bar_of(made: Pruner, before: int) -> Threshold | None:
    made.settle(before)
    return made.threshold(PLAN, "tpe")


def test_the_bar_is_the_best_rival_that_is_certainly_no_slower() -> None:
    threshold = bar_of(pruner(speed(1.8, stderr=0.05)), before=9)
    assert threshold is not None
    assert (threshold.rival, threshold.rival_sqnr_db, threshold.accuracy_drop) == (1, 40.0, 0.01)


def test_a_rival_within_the_interval_sets_no_bar() -> None:
    threshold = bar_of(pruner(speed(1.8, stderr=0.15)), before=9)
    assert threshold is not None
    assert threshold.rival == 2


def test_later_candidates_set_no_bar() -> None:
    threshold = bar_of(pruner(speed(1.8)), before=1)
    assert threshold is not None
    assert threshold.rival is None


def test_uniform_plans_are_measured_whole() -> None:
    made = pruner(speed(1.0))
    made.settle(9)
    assert made.threshold(PLAN, "seed:uniform-bf16") is None
    assert made.prune_latency(candidate(5, 20.0, None, origin="seed:uniform-bf16")) is None


def test_a_latency_that_a_better_rival_beats_is_not_measured() -> None:
    ruling = pruner(speed(1.8, stderr=0.05)).prune_latency(candidate(5, 35.0, None))
    assert ruling is not None
    assert "candidate 1 is faster with less output error" in ruling.reason
    assert ruling.predicted["speedup"].kind is Kind.ESTIMATED


@pytest.mark.parametrize(
    ("sqnr", "drop", "guess"),
    [
        (41.0, 0.0, speed(1.8)),
        (35.0, -0.01, speed(1.8)),
        (35.0, 0.0, speed(1.99, 0.05)),
        (35.0, 0.0, {}),
    ],
    ids=["better output", "better accuracy", "perhaps faster", "not predicted"],
)
def test_a_latency_that_may_matter_is_measured(
    sqnr: float, drop: float, guess: Measurements
) -> None:
    assert pruner(guess).prune_latency(candidate(5, sqnr, None, drop)) is None


def test_a_later_candidate_rules_nothing_out() -> None:
    assert pruner(speed(1.8, stderr=0.05)).prune_latency(candidate(0, 35.0, None)) is None


def test_a_candidate_beyond_a_limit_is_not_timed() -> None:
    ruling = pruner(speed(9.0)).prune_latency(candidate(5, 50.0, None, drop=0.02))
    assert ruling is not None
    assert "accuracy_drop is 0.01 beyond its limit" in ruling.reason


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 3)), max_size=30),
    st.integers(1, 9),
)
def test_the_bar_of_a_long_search_is_that_of_all_its_rivals(
    rivals: list[tuple[int, int, int]], guess: int
) -> None:
    limits = Limits(Constraints(accuracy_drop=0.01), {})
    costs = Forecast(SearchSpace(()), lambda plan: speed(float(guess)))
    made = Pruner((Objective.OUTPUT_ERROR, Objective.LATENCY), limits, costs)
    for number, (sqnr, speedup, drop) in enumerate(rivals):
        made.settle(number)
        made.learn(candidate(number, float(sqnr), float(speedup), drop=drop / 1000))
    threshold = bar_of(made, before=len(rivals))
    assert threshold is not None
    eligible = [sqnr for sqnr, speedup, _ in rivals if speedup >= guess]
    assert (threshold.rival is None) == (not eligible)
    assert threshold.rival_sqnr_db == max(eligible, default=0.0)
