"""Layers: SQNR along the network, and how the worst ops' values are spread in both models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.findings.layers import ComparisonMode, Distribution, LayerComparison, LayerRow
from autoquant.results.colours import SCHEME_COLOURS
from autoquant.results.plots.style import (
    ACCENT,
    INK,
    MUTED,
    SECOND,
    note,
    plain_figure,
    restyle,
)

_BINS = 80
_COLUMNS = 2
_ROW_PIXELS = 250
_ATTENTION_DB = 20.0
_WORST = 6
"""Ops whose values are drawn, those of the lowest SQNR."""


def layers_figure(comparison: LayerComparison) -> go.Figure:
    """Draw the SQNR of every activation, from the network's input (left) to its output (right).

    Under n-shadows there is a line for each scheme. Rings mark the ops that need attention; the
    dashed line is where they begin.
    """
    rows = comparison.rows
    if not rows:
        return note(plain_figure(height=200), "No op was compared.")
    figure = plain_figure(height=460)
    labels = list(dict.fromkeys(row.label for row in rows))
    for name, chosen, colour in _lines(comparison):
        figure.add_trace(
            go.Scatter(
                x=[row.label for row in chosen],
                y=[row.error.sqnr_db for row in chosen],
                mode="lines+markers",
                name=name,
                line={"color": colour, "width": 1.5},
                marker={"size": 6},
                customdata=[[row.quantized_type, row.format.dtype, _said(row)] for row in chosen],
                hovertemplate="%{x}<br>%{customdata[0]}, %{customdata[1]}<br>SQNR %{y:.1f} dB"
                "%{customdata[2]}<extra></extra>",
            )
        )
    marked = [row for row in rows if row.reading is not None]
    if marked:
        figure.add_trace(
            go.Scatter(
                x=[row.label for row in marked],
                y=[row.error.sqnr_db for row in marked],
                mode="markers",
                name="needs attention",
                marker={"symbol": "circle-open", "size": 13, "line": {"width": 2}, "color": SECOND},
                hoverinfo="skip",
            )
        )
    figure.add_hline(y=_ATTENTION_DB, line={"color": MUTED, "dash": "dash", "width": 1})
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=labels, tickangle=-60, nticks=60
    )
    figure.update_yaxes(title_text="SQNR, dB")
    return figure


def distributions_figure(comparison: LayerComparison) -> go.Figure:
    """Draw how the values of the worst ops are spread, float against quantized.

    The vertical axis is the share of the values in each of 80 intervals, on a logarithmic scale;
    dotted lines are the ends of what the quantized tensor can express.
    """
    order = np.argsort([row.error.sqnr_db for row in comparison.rows], kind="stable")[:_WORST]
    if not len(order):
        return note(plain_figure(height=200), "No op was compared.")
    chosen = [(comparison.rows[index], comparison.distributions[index]) for index in order]
    lines = -(-len(chosen) // _COLUMNS)
    figure = make_subplots(
        rows=lines,
        cols=_COLUMNS,
        subplot_titles=[_title(row) for row, _ in chosen],
        vertical_spacing=0.5 / (lines + 1),
    )
    for index, (row, spread) in enumerate(chosen):
        place = {"row": index // _COLUMNS + 1, "col": index % _COLUMNS + 1}
        for trace in _spread(row, spread, is_first=index == 0):
            figure.add_trace(trace, **place)
        for bound in (row.format.low, row.format.high):
            if bound is not None and _low(row) <= bound <= _high(row):
                figure.add_vline(x=bound, line={"color": INK, "dash": "dot", "width": 1}, **place)
    restyle(figure, height=110 + _ROW_PIXELS * lines)
    figure.update_yaxes(type="log", exponentformat="power", title_text="share")
    return figure


def _spread(row: LayerRow, spread: Distribution, *, is_first: bool) -> Sequence[go.Scatter]:
    edges = np.linspace(_low(row), _high(row), _BINS + 1)
    return [
        go.Scatter(
            x=(edges[:-1] + edges[1:]) / 2,
            y=[share or None for share in magnitudes.densities(edges)],
            mode="lines",
            line={"color": colour, "width": 1.5, "shape": "hvh"},
            name=name,
            showlegend=is_first,
            hovertemplate="%{x:.3g}: %{y:.2%}<extra>" + name + "</extra>",
        )
        for name, colour, magnitudes in (
            ("float", ACCENT, spread.expected),
            ("quantized", SECOND, spread.found),
        )
    ]


def _low(row: LayerRow) -> float:
    return min(row.expected.low, row.found.low)


def _high(row: LayerRow) -> float:
    high = max(row.expected.high, row.found.high)
    return high if high > _low(row) else _low(row) + 1.0


def _title(row: LayerRow) -> str:
    scheme = f", {row.scheme.value}" if row.scheme else ""
    return f"{row.label}{scheme}: {row.error.sqnr_db:.1f} dB"


def _said(row: LayerRow) -> str:
    return f"<br>{row.reading.cause.value}: {row.reading.evidence}" if row.reading else ""


def _lines(comparison: LayerComparison) -> Sequence[tuple[str, list[LayerRow], str]]:
    """Name, rows and colour of each line."""
    if comparison.mode is not ComparisonMode.N_SHADOWS:
        return [(comparison.mode.value, list(comparison.rows), ACCENT)]
    schemes = dict.fromkeys(row.scheme for row in comparison.rows if row.scheme is not None)
    return [
        (
            scheme.value,
            [row for row in comparison.rows if row.scheme is scheme],
            SCHEME_COLOURS[scheme],
        )
        for scheme in schemes
    ]
