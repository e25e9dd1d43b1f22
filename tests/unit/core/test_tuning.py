"""When a plan meets the goal, and which of several is taken."""

from __future__ import annotations

import pytest

from autoquant.core.findings.tuning import Attempt, Stage, Verdict, fewest_int16, judge
from autoquant.core.measurement import Candidate, Failure, Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme


def candidate(drop: float, stderr: float | None, **more: object) -> Candidate:
    found = {"accuracy_drop": Measurement(drop, Kind.EMULATED, stderr=stderr)}
    return Candidate(0, Plan.of({"a": Scheme.INT8}), "made up", found, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("drop", "stderr", "verdict"),
    [
        (0.004, 0.003, Verdict.MET),
        (0.004, 0.004, Verdict.WITHIN_NOISE),
        (0.014, 0.003, Verdict.WITHIN_NOISE),
        (0.016, 0.003, Verdict.NOT_MET),
        (0.010, 0.0, Verdict.MET),
        (0.010, None, Verdict.MET),
        (0.011, None, Verdict.NOT_MET),
    ],
)
def test_the_paired_standard_error_decides(
    drop: float, stderr: float | None, verdict: Verdict
) -> None:
    assert judge(candidate(drop, stderr), 0.01) is verdict


def test_what_failed_or_was_stopped_does_not_meet_it() -> None:
    assert judge(candidate(0.0, 0.0, failure=Failure("no")), 0.01) is Verdict.FAILED
    assert judge(candidate(0.0, 0.0, stopped="out of reach"), 0.01) is Verdict.NOT_MET


def test_the_fewest_int16_ops_win_and_a_lucky_drop_does_not() -> None:
    plans = [
        {"a": Scheme.INT16, "b": Scheme.INT16},
        {"a": Scheme.INT16, "b": Scheme.INT8},
        {"a": Scheme.INT8, "b": Scheme.INT16},
    ]
    attempts = [
        Attempt(
            Stage.SEARCH,
            "",
            Candidate(
                place,
                Plan.of(plan),
                "",
                {"accuracy_drop": Measurement(-0.001 * place, Kind.EMULATED)},
            ),
            Verdict.MET,
        )
        for place, plan in enumerate(plans)
    ]
    assert fewest_int16(attempts) is attempts[1]
