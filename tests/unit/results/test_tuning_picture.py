from __future__ import annotations

from dataclasses import replace

import plotly.graph_objects as go
import pytest

from autoquant.core.findings.tuning import Attempt, Stage, TuneReport, Verdict
from autoquant.core.measurement import Failure
from autoquant.core.precision import Scheme
from autoquant.results.plots.tuning import tuning_figure
from tests.unit.results.synthetic import make_candidate

NARROW = dict.fromkeys("abcd", Scheme.INT8)


def make_attempt(
    stage: Stage, verdict: Verdict, drop: float, *wide: Scheme, why: str = "bisection"
) -> Attempt:
    """Four ops, the first of them in the wide schemes; the drop has a standard error of 0.0024."""
    schemes = NARROW | dict(zip("abcd", wide, strict=False))
    return Attempt(stage, why, make_candidate(0, schemes, drop=drop), verdict)


UPPER = make_attempt(Stage.INT16, Verdict.MET, 0.001, *[Scheme.INT16] * 4, why="upper bound")
LOWER = make_attempt(Stage.INT8, Verdict.NOT_MET, 0.02, why="lower <bound>")
MIXED = make_attempt(Stage.THREE_WAY, Verdict.MET, 0.004, Scheme.FP16, Scheme.INT16)
CLOSE = make_attempt(Stage.THREE_WAY, Verdict.WITHIN_NOISE, 0.009, Scheme.FP16)


def report_of(*attempts: Attempt, chosen: Attempt | None = None) -> TuneReport:
    return TuneReport(0.01, attempts, attempts, chosen, "done")


def trace(figure: go.Figure, name: str) -> go.Scatter:
    (found,) = [item for item in figure.data if item.name == name]
    return found


def test_a_stage_holds_its_drops_in_points_over_the_share_of_int16_and_fp16_ops() -> None:
    points = trace(
        tuning_figure(report_of(UPPER, LOWER, MIXED, CLOSE)), "int8 and int16, fp16 ops fixed"
    )
    assert list(points.x) == [50.0, 25.0]
    assert list(points.y) == pytest.approx([0.4, 0.9])
    assert list(points.marker.symbol) == ["circle", "diamond-open"]


def test_a_bar_ends_where_the_verdict_is_decided() -> None:
    (bar,) = trace(tuning_figure(report_of(UPPER)), "all int16").error_y.array
    assert bar == pytest.approx(1.645 * 0.24)


def test_the_stages_have_colours_of_their_own() -> None:
    figure = tuning_figure(report_of(*(replace(UPPER, stage=stage) for stage in Stage)))
    assert len({item.marker.color for item in figure.data}) == len(Stage)


def test_the_goal_is_a_line_in_the_unit_of_the_axis() -> None:
    figure = tuning_figure(report_of(UPPER, LOWER))
    (line,) = figure.layout.shapes
    assert line.y0 == line.y1 == pytest.approx(1.0)
    assert figure.layout.yaxis.title.text == "Accuracy drop against fp32, points (measured)"


def test_hovering_says_why_a_plan_was_tried_and_what_came_of_it() -> None:
    (text,) = trace(tuning_figure(report_of(LOWER)), "all int8").hovertext
    assert text.startswith("<b>all int8</b>: lower &lt;bound&gt;<br>4 int8<br>drop 2.00 ± 0.24")
    assert text.endswith("<br>not met")


def test_a_ring_marks_the_chosen_plan() -> None:
    ring = trace(tuning_figure(report_of(UPPER, MIXED, chosen=MIXED)), "chosen")
    assert (list(ring.x), list(ring.y)) == ([50.0], pytest.approx([0.4]))


def test_a_plan_that_failed_is_not_drawn() -> None:
    failed = replace(
        LOWER,
        candidate=replace(LOWER.candidate, measurements={}, failure=Failure("no kernel")),
        verdict=Verdict.FAILED,
    )
    assert [item.name for item in tuning_figure(report_of(UPPER, failed)).data] == ["all int16"]
    assert not tuning_figure(report_of(failed)).data


def test_a_ruined_plan_does_not_flatten_the_others() -> None:
    ruined = make_attempt(Stage.INT8, Verdict.NOT_MET, 0.8)
    figure = tuning_figure(report_of(UPPER, MIXED, CLOSE, CLOSE, ruined))
    low, high = figure.layout.yaxis.range
    assert "1 outside this range" in figure.layout.annotations[-1].text
    assert low < 0.0
    assert 0.9 + 1.645 * 0.24 < high < 2.0
