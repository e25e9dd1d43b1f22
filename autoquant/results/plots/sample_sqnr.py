"""Bad cases: how many samples there are by SQNR, and where the worst lie."""

from __future__ import annotations

from collections import Counter

import plotly.graph_objects as go

from autoquant.core.findings.badcases import BadCases, OutputMetric
from autoquant.results.plots.style import ACCENT, INK, SECOND, plain_figure

_HEIGHT = 380
_BIN_DB = 1.0


def sample_sqnr_figure(cases: BadCases) -> go.Figure:
    """Draw samples by SQNR over all outputs, the median, and the worst samples by their index.

    A single hump is an error that does not depend on the data; a tail to the left is outliers.
    """
    figure = plain_figure(height=_HEIGHT)
    counts = _counts(cases)
    figure.add_trace(
        go.Bar(
            x=list(counts),
            y=list(counts.values()),
            width=_BIN_DB,
            marker={"color": ACCENT},
            name="samples",
            hovertemplate="%{x:.1f} dB: %{y} samples",
        )
    )
    worst = [case for _, case in cases.over_outputs(OutputMetric.SQNR)]
    figure.add_trace(
        go.Scatter(
            x=[case.value for case in worst],
            y=[0.0] * len(worst),
            mode="markers",
            marker={"color": SECOND, "symbol": "x", "size": 9},
            text=[f"#{case.index}" for case in worst],
            name="worst samples of an output",
            hovertemplate="%{text}: %{x:.1f} dB",
        )
    )
    median = cases.sqnr.quantile(0.5)
    figure.add_vline(
        x=median, line={"color": INK, "dash": "dot"}, annotation_text=f"median {median:.1f} dB"
    )
    figure.update_xaxes(title_text="SQNR of a sample's outputs, dB (as the plan runs here)")
    figure.update_yaxes(title_text="Samples", rangemode="tozero")
    return figure


def _counts(cases: BadCases) -> dict[float, int]:
    """Samples by the middle of a bin of one decibel, empty ends left out."""
    found: Counter[float] = Counter()
    for number, count in enumerate(cases.sqnr.counts):
        if count:
            middle = cases.sqnr.low_db + (number + 0.5) * cases.sqnr.width_db
            found[(middle // _BIN_DB + 0.5) * _BIN_DB] += count
    return dict(sorted(found.items()))
