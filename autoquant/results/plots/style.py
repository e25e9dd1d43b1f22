"""The look that all figures share: colours, symbols, fonts."""

from __future__ import annotations

import plotly.graph_objects as go

from autoquant.core.measurement import Kind
from autoquant.core.precision import Scheme

INK = "#1f2933"
MUTED = "#7b8794"
GRID = "#e8ebef"
ACCENT = "#0072b2"
SECOND = "#d55e00"

SCHEME_COLOURS = {
    Scheme.INT4_WEIGHT_ONLY_128: "#fbf7c2",
    Scheme.INT4_WEIGHT_ONLY_64: "#f6ee8e",
    Scheme.INT4_WEIGHT_ONLY: "#f0e442",
    Scheme.INT8: "#a6cee8",
    Scheme.INT8_DYNAMIC: "#56b4e9",
    Scheme.INT8_WEIGHT_ONLY: "#0072b2",
    Scheme.INT16: "#009e73",
    Scheme.INT16_WEIGHT: "#7fcdb5",
    Scheme.FP16: "#e69f00",
    Scheme.BF16: "#cc79a7",
    Scheme.FP32: "#3d4654",
}
"""From Okabe and Ito's colour-blind safe set: light for few bits, so that what is raised shows."""

SCHEME_CODES = {
    Scheme.INT4_WEIGHT_ONLY_128: "4/128",
    Scheme.INT4_WEIGHT_ONLY_64: "4/64",
    Scheme.INT4_WEIGHT_ONLY: "4/32",
    Scheme.INT8: "8",
    Scheme.INT8_DYNAMIC: "8d",
    Scheme.INT8_WEIGHT_ONLY: "8w",
    Scheme.INT16: "16",
    Scheme.INT16_WEIGHT: "16w",
    Scheme.FP16: "h",
    Scheme.BF16: "b",
    Scheme.FP32: "32",
}
"""Printed in the cells of the precision map, so that colour is not the only sign."""

KIND_SYMBOLS = {Kind.MEASURED: "circle", Kind.EMULATED: "diamond", Kind.ESTIMATED: "square"}

_LIGHT_FROM = 0.55
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def is_light(colour: str) -> bool:
    """Whether dark text reads better on a colour (`#rrggbb`), by its relative luminance."""
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > _LIGHT_FROM


def plain_figure(*, height: int) -> go.Figure:
    """Give an empty figure with the shared look.

    Args:
        height: Pixels; the width follows the page.
    """
    return restyle(go.Figure(), height=height)


def restyle(figure: go.Figure, *, height: int) -> go.Figure:
    """Give a figure the shared look, and return it."""
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        font={"family": _FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 70, "r": 24, "t": 76, "b": 60},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"family": _FONT, "size": 12}},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "top",
            "yref": "container",
        },
    )
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": MUTED,
        "showline": True,
        "ticks": "outside",
        "tickcolor": MUTED,
        "title": {"standoff": 12, "font": {"size": 13}},
        "automargin": True,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def corner_note(figure: go.Figure, text: str) -> None:
    """Write a small remark into the lower right corner, in place."""
    figure.add_annotation(
        text=text,
        x=1,
        y=0,
        xref="paper",
        yref="paper",
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        font={"size": 11, "color": MUTED},
    )


def note(figure: go.Figure, text: str) -> go.Figure:
    """Write a sentence where there is nothing to draw, and return the figure."""
    figure.add_annotation(
        text=text,
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 14, "color": MUTED},
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
