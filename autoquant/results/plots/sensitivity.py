"""Sensitivity bars: which knobs hurt the output, and whether weights or activations do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Method, Part, SensitivityRow, SensitivityTable
from autoquant.results.plots.style import ACCENT, INK, SECOND, note, plain_figure

_PERCENT = 100.0
_ROW_PIXELS = 26
_FRAME_PIXELS = 150
_COLOURS = {Part.WEIGHT: ACCENT, Part.ACTIVATION: SECOND}
_TRACES_OF_A_SCHEME = 3
_HOW = {
    Method.EXACT: "emulated",
    Method.GRADIENT: "estimated by gradient",
    Method.WEIGHTS_ONLY: "estimated from weights alone",
    Method.ENGINE: "measured on the engine",
}


def sensitivity_figure(table: SensitivityTable | None, top: int = 20) -> go.Figure:
    """Draw the most sensitive knobs of one scheme, weights and activations apart.

    A length is the noise-to-signal power ratio of the outputs with that part of that knob alone
    quantized, in percent; the mark is both together with one standard error. Buttons choose the
    scheme; the one that hurts most in all is shown first.

    Args:
        table: None or empty: the figure says that nothing was measured.
        top: How many knobs to show at most.
    """
    schemes = _schemes(table) if table else []
    if table is None or not schemes:
        return note(plain_figure(height=200), "No sensitivity was measured.")
    longest = max(min(top, len(table.ranking(scheme))) for scheme in schemes)
    figure = plain_figure(height=_FRAME_PIXELS + _ROW_PIXELS * longest)
    for index, scheme in enumerate(schemes):
        _add_scheme(figure, table, scheme, top, is_visible=index == 0)
    orders = [[row.knob for row in list(table.ranking(scheme))[:top]] for scheme in schemes]
    figure.update_layout(
        barmode="group", bargap=0.25, bargroupgap=0.05, legend={"traceorder": "normal"}
    )
    figure.update_xaxes(title_text="Output noise, % of signal power", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", ticklen=6, tickcolor="white", showline=False)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=orders[0])
    if len(schemes) > 1:
        figure.update_layout(updatemenus=[_menu(schemes, orders)], margin={"t": 90})
    return figure


def _schemes(table: SensitivityTable) -> list[Scheme]:
    """Give the schemes with rows, the one with the most noise in all first."""
    totals = {
        scheme: sum(row.noise for row in table.ranking(scheme))
        for scheme in Scheme
        if table.ranking(scheme)
    }
    return sorted(totals, key=lambda scheme: -totals[scheme])


def _add_scheme(
    figure: go.Figure, table: SensitivityTable, scheme: Scheme, top: int, *, is_visible: bool
) -> None:
    ranked = list(table.ranking(scheme))[:top]
    parts = {(row.knob, row.part): row for row in table.rows if row.scheme is scheme}
    for part, colour in _COLOURS.items():
        rows = [row for item in ranked if (row := _part(parts, item.knob, part))]
        figure.add_trace(
            go.Bar(
                x=[row.noise * _PERCENT for row in rows],
                y=[row.knob for row in rows],
                orientation="h",
                marker={"color": colour},
                name=f"{part.value} only",
                visible=is_visible,
                **_hover(rows),
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[row.noise * _PERCENT for row in ranked],
            y=[row.knob for row in ranked],
            error_x={
                "array": [row.noise_stderr * _PERCENT for row in ranked],
                "color": INK,
                "thickness": 1.2,
                "width": 3,
            },
            mode="markers",
            marker={"symbol": "line-ns", "size": 12, "line": {"color": INK, "width": 2.5}},
            name="both",
            visible=is_visible,
            **_hover(ranked),
        )
    )


def _part(
    parts: Mapping[tuple[str, Part], SensitivityRow], knob: str, part: Part
) -> SensitivityRow | None:
    """Give a knob's row; one without weights errs by its activations alone."""
    if part is Part.ACTIVATION and (knob, Part.WEIGHT) not in parts:
        return parts.get((knob, part), parts.get((knob, Part.BOTH)))
    return parts.get((knob, part))


def _hover(rows: list[SensitivityRow]) -> dict[str, Any]:
    return {
        "customdata": [[row.sqnr_db, row.scheme.title, _HOW[row.method]] for row in rows],
        "hovertemplate": "%{y}, %{customdata[1]}<br>noise %{x:.3g}% of signal power"
        "<br>SQNR %{customdata[0]:.1f} dB<br>%{customdata[2]}",
    }


def _menu(schemes: list[Scheme], orders: list[list[str]]) -> dict[str, Any]:
    buttons = [
        {
            "label": scheme.title,
            "method": "update",
            "args": [
                {
                    "visible": [
                        index == chosen
                        for index in range(len(schemes))
                        for _ in range(_TRACES_OF_A_SCHEME)
                    ]
                },
                {"yaxis.categoryarray": orders[chosen]},
            ],
        }
        for chosen, scheme in enumerate(schemes)
    ]
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "x": 1,
        "xanchor": "right",
        "y": 1.0,
        "yanchor": "bottom",
        "pad": {"b": 6},
        "showactive": True,
        "bgcolor": "white",
        "bordercolor": "#cbd2d9",
        "font": {"size": 12},
    }
