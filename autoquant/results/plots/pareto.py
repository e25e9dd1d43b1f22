"""The trade: accuracy, and output error, against speed (or size)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.measurement import EAGER_FP32, SQNR_CEILING_DB, Candidate, Kind
from autoquant.results.axes import SQNR_AXIS, Axis, cost_axis, drop_axis, window
from autoquant.results.findings import Findings
from autoquant.results.page import facts
from autoquant.results.plots.style import ACCENT, INK, KIND_SYMBOLS, MUTED, SECOND, note, restyle
from autoquant.results.summary import findings_unit
from autoquant.results.wording import (
    ScoreUnit,
    counts_text,
    exceptions_text,
    main_scheme,
    uniform_label,
)

_HEIGHT = 480
_LETTERS = 52
"""Of a line of a vertical title: so many fit a panel's height."""

_FAINT = "rgba(123, 135, 148, 0.55)"
_FAINT_BAR = "rgba(123, 135, 148, 0.22)"


@dataclass(frozen=True, slots=True)
class _Panel:
    """One of the two pictures."""

    row: int
    column: int
    x: Axis
    y: Axis
    findings: Findings
    unit: ScoreUnit

    @property
    def place(self) -> dict[str, int]:
        """Where plotly's functions find it."""
        return {"row": self.row, "col": self.column}

    @property
    def is_first(self) -> bool:
        """Whether it is the one that carries the legend."""
        return (self.row, self.column) == (1, 1)

    @property
    def drawable(self) -> tuple[Candidate, ...]:
        """Candidates that have both numbers."""
        return tuple(
            item
            for item in self.findings.comparable
            if {self.x.name, self.y.name} <= set(item.measurements)
        )


_PLACES = ((1, 1), (1, 2))


def pareto_figure(findings: Findings) -> go.Figure:
    """Draw accuracy change (first) and SQNR (second) over the first cost; better is right and up.

    All candidates are faint, the frontier is strong and connected; bars are one standard error;
    symbols tell measured from emulated and estimated quality, axis titles name all kinds.
    """
    unit = findings_unit(findings)
    x = cost_axis(findings)
    quality = (drop_axis(unit, findings.facts.metric), SQNR_AXIS)
    panels = [
        _Panel(*place, x, y, findings, unit) for place, y in zip(_PLACES, quality, strict=True)
    ]
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09)
    restyle(figure, height=_HEIGHT)
    if not any(panel.drawable for panel in panels):
        return note(figure, "No candidate has both an accuracy and a cost.")
    for panel in panels:
        _draw(figure, panel)
    _mark_baseline(figure, panels[0])
    _mark_limit(figure, panels[0])
    return figure


def _draw(figure: go.Figure, panel: _Panel) -> None:
    members = {item.number for item in panel.findings.frontier.members}
    inside = [item for item in panel.drawable if item.number in members]
    outside = [item for item in panel.drawable if item.number not in members]
    _add_points(figure, panel, outside, name="other candidates", is_strong=False)
    inside.sort(key=panel.x.value)
    figure.add_trace(
        go.Scatter(
            x=[panel.x.value(item) for item in inside],
            y=[panel.y.value(item) for item in inside],
            mode="lines",
            line={"color": ACCENT, "width": 1.2 if panel.is_first else 2},
            hoverinfo="skip",
            showlegend=False,
            legendgroup="frontier",
            name="frontier line",
        ),
        **panel.place,
    )
    _add_points(figure, panel, inside, name="frontier", is_strong=True)
    _label_uniform(figure, panel)
    _set_axes(figure, panel)


def _add_points(
    figure: go.Figure, panel: _Panel, points: Sequence[Candidate], *, name: str, is_strong: bool
) -> None:
    """Add one trace for each kind of quality, so that the legend tells them apart."""
    for kind in Kind:
        shown = [item for item in points if item.measurements[panel.y.name].kind is kind]
        if not shown:
            continue
        bar = ACCENT if is_strong else _FAINT_BAR
        errors = {"color": bar, "thickness": 1.2, "width": 3 if is_strong else 0}
        figure.add_trace(
            go.Scatter(
                x=[panel.x.value(item) for item in shown],
                y=[panel.y.value(item) for item in shown],
                error_x={"array": [panel.x.error(item) for item in shown], **errors},
                error_y={"array": [panel.y.error(item) for item in shown], **errors},
                mode="markers",
                marker={
                    "symbol": [_symbol(kind, item, panel.x) for item in shown],
                    "size": 11 if is_strong else 8,
                    "color": ACCENT if is_strong else _FAINT,
                    "line": {"color": "white", "width": 1},
                },
                hovertext=[_hover_text(item, panel.findings, panel.unit) for item in shown],
                hovertemplate="%{hovertext}<extra></extra>",
                name=f"{name} ({kind.value})",
                legendgroup=f"{name} {kind.value}",
                showlegend=panel.is_first,
            ),
            **panel.place,
        )


def _symbol(kind: Kind, candidate: Candidate, axis: Axis) -> str:
    """Hollow where the machine was too busy for the time."""
    busy = candidate.measurements[axis.name].busy
    return KIND_SYMBOLS[kind] + ("-open" if busy else "")


def _label_uniform(figure: go.Figure, panel: _Panel) -> None:
    """Name the uniform plans, which everybody knows, beside their points."""
    labelled: set[str] = set()
    for item in panel.drawable:
        label = uniform_label(item)
        if label and label not in labelled:
            labelled.add(label)
            figure.add_annotation(
                x=panel.x.value(item),
                y=panel.y.value(item),
                text=label,
                showarrow=False,
                xanchor="left",
                yanchor="bottom",
                xshift=6,
                yshift=4,
                font={"size": 11, "color": INK},
                bgcolor="rgba(255, 255, 255, 0.7)",
                **panel.place,
            )


def _set_axes(figure: go.Figure, panel: _Panel) -> None:
    measurements = [item.measurements for item in panel.drawable]
    figure.update_xaxes(title_text=panel.x.titled(measurements), **panel.place)
    figure.update_yaxes(title_text=_in_lines(panel.y.titled(measurements)), **panel.place)
    if panel.x.is_reversed:
        figure.update_xaxes(autorange="reversed", **panel.place)
    members = {item.number for item in panel.findings.frontier.members}
    kept = [
        _reach(panel.y, item)
        for item in panel.drawable
        if item.number in members and not _is_exact(panel.y, item)
    ]
    visible = window(
        [panel.y.value(item) for item in panel.drawable],
        [edge for edges in kept for edge in edges] + _marks(panel),
        ceiling=SQNR_CEILING_DB if panel.y is SQNR_AXIS else None,
    )
    figure.update_yaxes(range=[visible.low, visible.high], **panel.place)
    if visible.outside:
        figure.add_annotation(
            text=f"{visible.outside} outside this range: double-click shows all",
            xref="x domain" if panel.is_first else "x2 domain",
            yref="y domain" if panel.is_first else "y2 domain",
            x=0.01,
            y=0.01,
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"size": 11, "color": MUTED},
        )


def _in_lines(title: str) -> str:
    """Break a title that is longer than its axis; a name without spaces too."""
    return "<br>".join(wrap(title, _LETTERS))


def _reach(axis: Axis, candidate: Candidate) -> tuple[float, float]:
    """Give both ends of a point's error bar."""
    value, error = axis.value(candidate), axis.error(candidate)
    return value - error, value + error


def _is_exact(axis: Axis, candidate: Candidate) -> bool:
    return axis is SQNR_AXIS and axis.value(candidate) >= SQNR_CEILING_DB


def _marks(panel: _Panel) -> list[float]:
    """Give the heights that must be seen beside the points: no change, and the limit."""
    if panel.y is SQNR_AXIS:
        return []
    limit = panel.findings.facts.max_drop
    return [0.0] if limit is None else [0.0, -limit * panel.unit.factor]


def _mark_baseline(figure: go.Figure, panel: _Panel) -> None:
    """Mark the float model: no change of accuracy, at its own cost, where the target runs it."""
    is_speed = panel.x.name == "speedup"
    if is_speed and panel.findings.facts.rival != EAGER_FP32:
        return
    if is_speed:
        x = 1.0
    elif panel.x.name in panel.findings.frontier.baseline:
        x = panel.findings.frontier.baseline[panel.x.name].value * panel.x.factor
    else:
        x = 100.0
    figure.add_trace(
        go.Scatter(
            x=[x],
            y=[0.0],
            mode="markers",
            marker={"symbol": "star", "size": 15, "color": INK},
            hovertemplate="<b>fp32</b>, the model as given<extra></extra>",
            name="fp32, the model as given",
        ),
        row=1,
        col=1,
    )


def _mark_limit(figure: go.Figure, panel: _Panel) -> None:
    """Draw the largest drop that the job allows."""
    limit = panel.findings.facts.max_drop
    if limit is None:
        return
    figure.add_hline(
        y=-limit * panel.unit.factor,
        line={"color": SECOND, "width": 1.2, "dash": "dash"},
        annotation={"text": "largest drop allowed", "font": {"size": 11, "color": SECOND}},
        annotation_position="top left",
        row=1,
        col=1,
    )


def _hover_text(candidate: Candidate, findings: Findings, unit: ScoreUnit) -> str:
    """Describe a candidate under the mouse: numbers with kinds, counts, and the sites out of line.

    In the markup of plotly's hover labels; names are escaped.
    """
    lines = [f"<b>#{candidate.number}</b>  {escape(candidate.origin)}"]
    lines += [f"{escape(label)}: {text}" for label, text in facts(candidate, findings, unit)]
    lines.append(f"<br>{counts_text(candidate.plan)}")
    exceptions = exceptions_text(candidate.plan, findings.sites)
    if exceptions:
        lines.append(f"not {main_scheme(candidate.plan).value}:")
        lines += [f"  {escape(text)}" for text in exceptions]
    return "<br>".join(lines)
