"""The report of a comparison of layers: one HTML file that needs neither network nor server."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from autoquant.core.findings.layers import ComparisonMode, LayerComparison
from autoquant.results.layers_table import FULL, cells, said, with_own
from autoquant.results.plots import distributions_figure, layers_figure
from autoquant.results.report import fill_template

_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d"]}
_WAYS = {
    ComparisonMode.UNSHADOWED: "Each model runs on its own activations: errors pile up along the "
    "network.",
    ComparisonMode.SHADOWED: "Every quantized op is fed the float model's activations: each error "
    "is the op's own.",
    ComparisonMode.N_SHADOWS: "Every op of each scheme is fed the float model's activations: each "
    "error is the op's own.",
}


def render_layers(comparison: LayerComparison, name: str) -> str:
    """Give the report as HTML, plotly.js included (about 5 MB)."""
    columns = with_own(FULL, comparison.own)
    return fill_template(
        "layers.html.j2",
        {
            "plotly": get_plotlyjs(),
            "title": f"{name}: layer by layer",
            "subtitle": f"{comparison.mode.value} · {comparison.samples} samples · "
            f"{comparison.kind.value}",
            "way": _WAYS[comparison.mode],
            "output": comparison.output,
            "findings": [(row.label, row.error.sqnr_db, said(row)) for row in comparison.findings],
            "columns": list(columns),
            "activations": cells(comparison.rows, columns),
            "weights": cells(comparison.weights, columns),
            "layers": _picture(layers_figure(comparison), "layers"),
            "distributions": _picture(distributions_figure(comparison), "distributions"),
        },
    )


def _picture(figure: go.Figure, name: str) -> str:
    """Give a figure as a part of a page that holds plotly.js already."""
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, div_id=f"figure-{name}", config=_CONFIG
        )
    )
