"""Tuning: what each plan that was tried costs in wide ops, and in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from autoquant.core.findings.tuning import Attempt, Stage, TuneReport, Verdict, Z
from autoquant.core.plan import INT16_SCHEMES, Plan
from autoquant.core.precision import Scheme
from autoquant.results.axes import window
from autoquant.results.plots.style import INK, MUTED, corner_note, note, plain_figure
from autoquant.results.tune_report import tune_unit
from autoquant.results.wording import ScoreUnit, counts_text, drop_text, kinds_of, kinds_text

_HEIGHT = 460
_PERCENT = 100.0
_WIDE = INT16_SCHEMES | {Scheme.FP16}
_COLOURS = {
    Stage.INT16: "#009e73",
    Stage.INT16_FP16: "#e69f00",
    Stage.INT8: "#0072b2",
    Stage.INT8_INT16: "#56b4e9",
    Stage.THREE_WAY: "#cc79a7",
    Stage.SEARCH: MUTED,
}
_SYMBOLS = {
    Verdict.MET: "circle",
    Verdict.WITHIN_NOISE: "diamond-open",
    Verdict.NOT_MET: "x",
}


def tuning_figure(report: TuneReport) -> go.Figure:
    """Draw each attempt's accuracy drop over its share of int16 and fp16 ops, stages by colour.

    A bar is 1.645 standard errors on either side: a plan meets the goal where its whole bar lies
    on or below the goal's line, and misses it where its whole bar lies above. Attempts that failed
    have no place in the picture; a ring marks the chosen plan.
    """
    shown = [item for item in report.attempts if "accuracy_drop" in item.candidate.measurements]
    if not shown:
        return note(plain_figure(height=200), "No plan could be measured.")
    figure, unit = plain_figure(height=_HEIGHT), tune_unit(report)
    for stage in Stage:
        tried = [item for item in shown if item.stage is stage]
        if tried:
            figure.add_trace(_points(stage, tried, unit))
    if report.chosen is not None:
        figure.add_trace(_ring(report.chosen, unit))
    goal = report.goal * unit.factor
    figure.add_hline(
        y=goal,
        line={"color": INK, "dash": "dash", "width": 1},
        annotation_text=f"goal: at most {goal:g} {unit.drop_unit}",
        annotation_position="top",
    )
    kinds = kinds_text(kinds_of([item.candidate.measurements for item in shown], "accuracy_drop"))
    figure.update_xaxes(title_text="Ops on int16 or fp16, %", range=[-4, 104])
    figure.update_yaxes(title_text=f"Accuracy drop against fp32, {unit.drop_unit} ({kinds})")
    _set_window(figure, shown, report)
    return figure


def _points(stage: Stage, tried: Sequence[Attempt], unit: ScoreUnit) -> go.Scatter:
    drops = [item.candidate.measurements["accuracy_drop"] for item in tried]
    return go.Scatter(
        x=[_wide_share(item.plan) for item in tried],
        y=[drop.value * unit.factor for drop in drops],
        error_y={
            "array": [Z * (drop.stderr or 0.0) * unit.factor for drop in drops],
            "thickness": 1.2,
            "width": 3,
        },
        mode="markers",
        name=stage.value,
        marker={
            "color": _COLOURS[stage],
            "size": 9,
            "symbol": [_SYMBOLS[item.verdict] for item in tried],
        },
        hovertext=[_said(item, unit) for item in tried],
        hoverinfo="text",
    )


def _ring(chosen: Attempt, unit: ScoreUnit) -> go.Scatter:
    return go.Scatter(
        x=[_wide_share(chosen.plan)],
        y=[chosen.drop * unit.factor],
        mode="markers",
        name="chosen",
        marker={"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 2}},
        hoverinfo="skip",
    )


def _wide_share(plan: Plan) -> float:
    wide = sum(scheme in _WIDE for _, scheme in plan.assignment)
    return wide / max(len(plan.assignment), 1) * _PERCENT


def _said(attempt: Attempt, unit: ScoreUnit) -> str:
    drop = attempt.candidate.measurements["accuracy_drop"]
    early = ", stopped early" if attempt.candidate.stopped is not None else ""
    return "<br>".join(
        (
            f"<b>{attempt.stage.value}</b>: {escape(attempt.why)}",
            counts_text(attempt.plan),
            f"drop {drop_text(drop, unit)} {unit.drop_unit} <i>{drop.kind.value}</i>",
            f"{attempt.verdict.value}{early}",
        )
    )


def _set_window(figure: go.Figure, shown: Sequence[Attempt], report: TuneReport) -> None:
    """Leave out plans so bad that the rest would lie on one line; what meets the goal stays."""
    factor = tune_unit(report).factor
    ends = [
        end * factor
        for item in shown
        if item.verdict is not Verdict.NOT_MET
        for margin in [Z * (item.candidate.measurements["accuracy_drop"].stderr or 0.0)]
        for end in (item.drop - margin, item.drop + margin)
    ]
    visible = window([item.drop * factor for item in shown], [0.0, report.goal * factor, *ends])
    figure.update_yaxes(range=[visible.low, visible.high])
    said = ["bar: 1.645 standard errors; disc: met, diamond: within noise, x: not met"]
    if visible.outside:
        said.append(f"{visible.outside} outside this range, double-click shows all")
    corner_note(figure, "; ".join(said))
