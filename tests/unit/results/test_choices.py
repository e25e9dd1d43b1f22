from __future__ import annotations

from dataclasses import replace

import pytest

from autoquant.core.frontier import find_frontier
from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.precision import Scheme
from autoquant.results.choices import find_choices, find_rivals, find_trainable
from autoquant.results.findings import Findings
from autoquant.results.summary import NO_FASTER, summarize, training_sentence
from tests.unit.results.synthetic import BASELINE, make_candidate

GOALS = (Objective.OUTPUT_ERROR, Objective.LATENCY)


def timed(number: int, speedup: float, stderr: float, sqnr: float, drop: float = 0.0) -> Candidate:
    schemes = {"a": Scheme.INT8, "b": Scheme.BF16 if number else Scheme.INT8}
    item = make_candidate(number, schemes, sqnr=sqnr, drop=drop)
    speed = Measurement(speedup, Kind.MEASURED, stderr=stderr, samples=20)
    return replace(item, measurements={**item.measurements, "speedup": speed})


@pytest.mark.parametrize(
    ("stderr", "picked"),
    [(0.001, 0), (0.05, 1)],
    ids=["the faster where they differ", "the more exact where they do not"],
)
def test_of_plans_that_are_as_fast_within_noise_the_more_exact_is_picked(
    stderr: float, picked: int
) -> None:
    items = [
        timed(0, 2.50, stderr, 27.0),
        timed(1, 2.45, stderr, 31.0),
        timed(2, 1.9, stderr, 40.0),
    ]
    found = find_frontier(items, BASELINE, GOALS).pick(None)
    assert found is not None
    assert found.number == picked


@pytest.mark.parametrize(
    ("stderr", "picked"), [(0.01, 0), (0.1, 1)], ids=["they differ", "they do not"]
)
def test_plans_that_were_paired_with_one_float_plan_are_compared_over_it(
    stderr: float, picked: int
) -> None:
    """Their speeds over fp32 share the error of that plan's own."""
    items = []
    for item in (timed(0, 2.4, 0.2, 27.0), timed(1, 2.1, 0.2, 31.0)):
        over = Measurement(item.value("speedup") / 1.7, Kind.MEASURED, stderr=stderr)
        items.append(replace(item, measurements={**item.measurements, "float_speedup": over}))
    found = find_frontier(items, BASELINE, GOALS).pick(None)
    assert found is not None
    assert found.number == picked


def test_a_plan_beyond_the_limit_is_not_picked() -> None:
    items = [timed(0, 2.5, 0.01, 27.0, drop=0.2), timed(1, 2.0, 0.01, 31.0)]
    frontier = find_frontier(items, BASELINE, GOALS)
    picked = frontier.pick(0.01)
    assert picked is not None
    assert picked.number == 1
    assert frontier.pick(-1.0) is None


@pytest.mark.parametrize(("speedup", "is_said"), [(0.72, True), (1.01, True), (1.5, False)])
def test_where_nothing_beats_float_the_summary_says_so(
    findings: Findings, speedup: float, is_said: bool
) -> None:
    items = (timed(0, speedup, 0.02, 27.0), timed(1, 0.6, 0.02, 31.0))
    found = replace(findings, frontier=find_frontier(items, BASELINE, GOALS), candidates=items)
    assert (NO_FASTER in summarize(found)) is is_said


def test_three_choices_from_fast_to_exact(findings: Findings) -> None:
    fastest, balanced, safest = (item.candidate for item in find_choices(findings))
    assert fastest == findings.chosen
    speeds = [item.value("speedup") for item in (fastest, balanced, safest)]
    assert speeds == sorted(speeds, reverse=True)
    noises = [item.value("sqnr_db") for item in (fastest, balanced, safest)]
    assert noises == sorted(noises)


def test_float_is_no_safe_choice(findings: Findings) -> None:
    numbers = {item.candidate.number for item in find_choices(findings)}
    assert 0 in {item.number for item in findings.frontier}, "fp32 is a member"
    assert 0 not in numbers


def test_where_nothing_is_within_the_limit_there_is_no_choice(findings: Findings) -> None:
    strict = replace(findings, facts=replace(findings.facts, max_drop=-1.0))
    assert find_choices(strict) == ()


def test_float_plans_that_are_no_candidates_are_rivals_too(findings: Findings) -> None:
    speed = Measurement(1.4, Kind.MEASURED, stderr=0.02)
    baseline = {**BASELINE, "speedup.all-fp16": speed, "speedup.all-bf16": speed}
    frontier = replace(findings.frontier, baseline=baseline)
    rivals = {item.title: item for item in find_rivals(replace(findings, frontier=frontier))}
    assert rivals["all fp16"].speedup == speed
    assert rivals["all bf16"].candidate == findings.candidates[2]


@pytest.mark.parametrize(
    ("drops", "number", "said"),
    [
        ((0.009, 0.4), 0, "may bring back what #0"),
        ((0.003, 0.4), None, "loses nothing beyond noise"),
        ((0.4, 0.003), 0, "#1 loses nothing beyond noise. #0"),
        ((0.4, 0.3), 1, "the nearest is #1"),
    ],
    ids=["the chosen one loses", "no cheaper one", "a cheaper one", "none within the limit"],
)
def test_what_training_may_mend_surely_loses_and_is_cheap_for_it(
    findings: Findings, drops: tuple[float, float], number: int | None, said: str
) -> None:
    """The standard error of a drop is 0.0024, the limit 0.01; the first candidate is faster."""
    items = tuple(
        timed(index, speed, 0.01, 30.0 + index, drop)
        for index, (speed, drop) in enumerate(zip((2.5, 2.0), drops, strict=True))
    )
    found = replace(findings, frontier=find_frontier(items, BASELINE, GOALS), candidates=items)
    trained = find_trainable(found)
    assert (None if trained is None else trained.number) == number
    assert said in training_sentence(found, trained)
