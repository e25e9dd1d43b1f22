"""Constraints: how far each is exceeded."""

from __future__ import annotations

import pytest

from autoquant.core.measurement import Candidate, Failure, Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.job import Constraints
from autoquant.searching.proposing.constraints import Limits

PLAN = Plan.of({"a": Scheme.INT16, "b": Scheme.INT8, "c": Scheme.INT16_WEIGHT, "d": Scheme.FP32})
FOUND = {
    "accuracy_drop": Measurement(0.02, Kind.MEASURED),
    "speedup": Measurement(2.0, Kind.MEASURED),
    "size_bytes": Measurement(30.0, Kind.ESTIMATED),
}
BASELINE = {"size_bytes": Measurement(100.0, Kind.ESTIMATED)}


@pytest.mark.parametrize(
    ("constraints", "excess"),
    [
        (Constraints(accuracy_drop=0.01), {"accuracy_drop": 0.01}),
        (Constraints(accuracy_drop=None, latency_ratio=0.4), {"latency_ratio": 0.1}),
        (Constraints(accuracy_drop=None, size_ratio=0.5), {"size_ratio": -0.2}),
        (Constraints(accuracy_drop=None, int16_share=0.25), {"int16_share": 0.25}),
        (Constraints(accuracy_drop=None), {}),
    ],
    ids=["accuracy", "latency", "size", "int16", "none"],
)
def test_each_constraint_says_how_far_it_is_exceeded(
    constraints: Constraints, excess: dict[str, float]
) -> None:
    limits = Limits(constraints, BASELINE)
    found = limits.violations(Candidate(0, PLAN, "made up", FOUND))
    assert found == pytest.approx(excess)


def test_what_failed_keeps_no_constraint() -> None:
    limits = Limits(Constraints(accuracy_drop=None), BASELINE)
    assert limits.kept_by(Candidate(0, PLAN, "made up", FOUND))
    assert not limits.kept_by(Candidate(0, PLAN, "made up", failure=Failure("no engine")))
