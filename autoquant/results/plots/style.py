"""The look that all figures share: colours, symbols, fonts."""

from __future__ import annotations

import plotly.graph_objects as go

from autoquant.core.measurement import Kind

INK = "#1f2933"
MUTED = "#7b8794"
GRID = "#e8ebef"
ACCENT = "#0072b2"
SECOND = "#d55e00"

KIND_SYMBOLS = {Kind.MEASURED: "circle", Kind.EMULATED: "diamond", Kind.ESTIMATED: "square"}

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def plain_figure(*, height: int) -> go.Figure:
    """Give an empty figure with the shared look."""
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
