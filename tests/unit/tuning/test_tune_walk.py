"""The stages, on a made-up target whose accuracy drop is the sum of its ops' drops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autoquant.core.findings.tuning import Attempt, Stage, TuneReport, Verdict
from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.tuning.walk import Walk

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")
Drops = dict[str, tuple[float, float, float]]
"""By op, what int8, int16 and fp16 each add to the drop."""
CLEAN: Drops = dict.fromkeys(NAMES, (0.0, 0.0, 0.0))
PLACE = {Scheme.INT8: 0, Scheme.INT16: 1, Scheme.FP16: 2}


def walk(drops: Drops, stderr: float = 0.0, schemes: Sequence[Scheme] = tuple(PLACE)) -> TuneReport:
    space = SearchSpace(tuple(Knob(name, (name,), tuple(schemes)) for name in NAMES))
    rows = tuple(
        SensitivityRow(
            name, scheme, Part.BOTH, 0.0, None, None, None, None, drops[name][PLACE[scheme]], 0.0
        )
        for name in NAMES
        for scheme in schemes
    )

    def measure(plan: Plan, origin: str) -> Candidate:
        drop = sum(drops[name][PLACE[plan[name]]] for name in NAMES)
        found = {"accuracy_drop": Measurement(drop, Kind.EMULATED, stderr=stderr)}
        return Candidate(0, plan, origin, found)

    def refine(space: SearchSpace, start: Attempt) -> Sequence[Attempt]:  # noqa: ARG001
        return ()

    table = SensitivityTable(rows, "made up", 1)
    return Walk(space, table, measure, goal=0.01, refine=refine, show=lambda attempt: None).run()


def test_it_stops_at_all_int8_where_that_meets_the_goal() -> None:
    report = walk(CLEAN)
    assert [item.stage for item in report.attempts] == [Stage.INT16, Stage.INT8]
    assert report.plan == Plan.of(dict.fromkeys(NAMES, Scheme.INT8))


@pytest.mark.parametrize("hurt", [("c",), ("a", "h"), NAMES], ids=["one", "two", "all"])
def test_exactly_the_ops_that_need_it_are_raised_to_int16(hurt: tuple[str, ...]) -> None:
    report = walk(CLEAN | dict.fromkeys(hurt, (0.02, 0.0, 0.0)))
    assert report.plan is not None
    assert {name for name in NAMES if report.plan[name] is Scheme.INT16} == set(hurt)
    assert report.chosen is not None
    assert report.chosen.stage is (Stage.INT8_INT16 if hurt != NAMES else Stage.INT16)


def test_where_int16_fails_the_fewest_fp16_ops_are_fixed_and_int16_is_fewest_beside_them() -> None:
    drops = CLEAN | {"b": (0.05, 0.04, 0.0), "f": (0.02, 0.0, 0.0)}
    report = walk(drops)
    schemes = {**dict.fromkeys(NAMES, Scheme.INT8), "b": Scheme.FP16, "f": Scheme.INT16}
    assert report.plan == Plan.of(schemes)
    assert report.chosen is not None
    assert report.chosen.stage is Stage.THREE_WAY


def test_fp16_alone_may_be_enough() -> None:
    report = walk(CLEAN | {"b": (0.05, 0.04, 0.0)})
    assert report.plan == Plan.of({**dict.fromkeys(NAMES, Scheme.INT8), "b": Scheme.FP16})


@pytest.mark.parametrize(
    "schemes", [tuple(PLACE), (Scheme.INT8, Scheme.INT16)], ids=["with fp16", "without"]
)
def test_a_goal_out_of_reach_is_said_and_no_plan_is_given(schemes: Sequence[Scheme]) -> None:
    report = walk(CLEAN | {"b": (0.05, 0.04, 0.03)}, schemes=schemes)
    assert report.plan is None
    assert "out of reach" in report.conclusion


def test_what_is_within_noise_is_not_taken_where_more_precise_plans_are_sure() -> None:
    sure, unsure = 0.002, 0.008
    drops = CLEAN | {"c": (unsure, 0.0, 0.0), "d": (sure, 0.0, 0.0)}
    report = walk(drops, stderr=0.003)
    assert report.plan == Plan.of({**dict.fromkeys(NAMES, Scheme.INT8), "c": Scheme.INT16})


def test_where_nothing_is_sure_drops_within_the_goal_are_taken_and_it_is_said() -> None:
    report = walk(CLEAN | {"c": (0.02, 0.0, 0.0)}, stderr=0.01)
    assert report.plan == Plan.of({**dict.fromkeys(NAMES, Scheme.INT8), "c": Scheme.INT16})
    assert report.chosen is not None
    assert report.chosen.verdict is Verdict.WITHIN_NOISE
    assert "more evaluation samples" in report.conclusion
