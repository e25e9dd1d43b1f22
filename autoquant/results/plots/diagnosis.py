"""Diagnosis: what mending each cause alone brings, in decibels."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from autoquant.core.findings.diagnosis import Cause, Diagnosis, Finding
from autoquant.results.plots.style import ACCENT, INK, MUTED, note, plain_figure

_ROW_PIXELS = 60
_FRAME_PIXELS = 170
_PLAN_COLOUR = "#009e73"


def diagnosis_figure(diagnosis: Diagnosis) -> go.Figure:
    """Draw SQNR of the outputs as they are and with each cause alone mended, first cause on top.

    Below them is the plan with the first cause's ops raised, where there is one. The dashed line
    is the limit of the median sample; where few samples are bad the bars are of those, and there
    is no line.
    """
    findings = diagnosis.findings
    if not findings:
        return note(
            plain_figure(height=200),
            f"No cause was proven: {diagnosis.median_sqnr_db:.1f} dB in the median of "
            f"{diagnosis.samples} samples; below {diagnosis.limit_db:.1f} dB is bad.",
        )
    figure = plain_figure(height=_FRAME_PIXELS + _ROW_PIXELS * (len(findings) + 1))
    rows = [f"{number}. {_named(finding)}" for number, finding in enumerate(findings, 1)]
    for name, values, colour in (
        ("as it is", [finding.before_db for finding in findings], MUTED),
        ("with this cause alone mended", [finding.after_db for finding in findings], ACCENT),
    ):
        figure.add_trace(
            go.Bar(
                x=values,
                y=rows,
                orientation="h",
                name=name,
                marker={"color": colour},
                text=[f"{value:.1f}" for value in values],
                customdata=[_hover(finding) for finding in findings],
                hovertemplate="%{x:.1f} dB, %{customdata[0]}<br>%{customdata[1]}",
            )
        )
    if diagnosis.plan_db is not None:
        figure.add_trace(_plan_bar(diagnosis.plan_db))
    figure.update_layout(barmode="group", bargap=0.3, legend={"traceorder": "normal"})
    figure.update_xaxes(title_text=f"SQNR of {_of(diagnosis)}, dB ({_kinds(diagnosis)})")
    figure.update_yaxes(autorange="reversed", ticklen=6, tickcolor="white", showline=False)
    if not diagnosis.bad:
        figure.add_vline(
            x=diagnosis.limit_db,
            line={"color": INK, "dash": "dash", "width": 1},
            annotation_text=f"below {diagnosis.limit_db:.1f} dB is bad",
        )
    return figure


def _plan_bar(plan_db: float) -> go.Bar:
    return go.Bar(
        x=[plan_db],
        y=["the plan with 1. raised"],
        orientation="h",
        name="as a plan",
        marker={"color": _PLAN_COLOUR},
        text=[f"{plan_db:.1f}"],
        hovertemplate="%{x:.1f} dB, as it runs here",
    )


def _named(finding: Finding) -> str:
    more = f" and {len(finding.sites) - 1} more" if len(finding.sites) > 1 else ""
    where = f"<br>{escape(finding.sites[0])}{more}" if finding.sites else ""
    return f"{finding.cause.value}{where}"


def _hover(finding: Finding) -> tuple[str, str]:
    return _kind(finding), escape(finding.evidence)


def _kind(finding: Finding) -> str:
    return "measured" if finding.cause is Cause.KERNEL else "emulated"


def _kinds(diagnosis: Diagnosis) -> str:
    found = {_kind(finding): None for finding in diagnosis.findings}
    plan = {"plan as it runs here": None} if diagnosis.plan_db is not None else {}
    return ", ".join([*found, *plan])


def _of(diagnosis: Diagnosis) -> str:
    return "the bad samples" if diagnosis.bad else "the median sample"
