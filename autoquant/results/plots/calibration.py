"""Calibration: output SQNR by amount of data, one line for each observer."""

from __future__ import annotations

import plotly.graph_objects as go

from autoquant.core.findings.calibrations import CalibrationTable
from autoquant.core.ranges import ObserverName
from autoquant.results.plots.style import corner_note, plain_figure
from autoquant.results.wording import kinds_of, kinds_text

_HEIGHT = 420
_LOOKS = {
    ObserverName.HISTOGRAM: ("#0072b2", "circle"),
    ObserverName.MINMAX: ("#7b8794", "square"),
    ObserverName.MOVING_AVERAGE: ("#56b4e9", "diamond"),
    ObserverName.PERCENTILE: ("#e69f00", "triangle-up"),
    ObserverName.KL: ("#cc79a7", "x"),
    ObserverName.MSE: ("#009e73", "cross"),
    ObserverName.MIX: ("#d55e00", "star"),
}


def calibration_figure(table: CalibrationTable) -> go.Figure:
    """Draw SQNR over calibration samples; marks are bigger from where more data changes little."""
    figure = plain_figure(height=_HEIGHT)
    for observer in table.observers:
        rows = table.rows_of(observer)
        enough = table.enough(observer).steps
        colour, symbol = _LOOKS[observer]
        figure.add_trace(
            go.Scatter(
                x=[row.samples for row in rows],
                y=[row.sqnr_db for row in rows],
                mode="lines+markers",
                name=observer.value,
                line={"color": colour, "width": 2},
                marker={
                    "symbol": symbol,
                    "size": [11 if row.steps == enough else 6 for row in rows],
                },
                customdata=[[row.steps, row.measurements["accuracy"].value] for row in rows],
                hovertemplate="%{x} samples, %{customdata[0]} steps<br>SQNR %{y:.2f} dB"
                "<br>metric %{customdata[1]:.4g}",
            )
        )
    kinds = kinds_text(kinds_of([row.measurements for row in table.rows], "sqnr_db"))
    figure.update_xaxes(title_text="Calibration samples", type="log")
    figure.update_yaxes(title_text=f"Output SQNR against fp32, dB ({kinds})")
    corner_note(figure, "big mark: from here on more data changes little")
    return figure
