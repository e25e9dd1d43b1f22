"""Plotly figures of what a search found."""

from __future__ import annotations

from autoquant.results.plots.layers import distributions_figure, layers_figure
from autoquant.results.plots.pareto import pareto_figure
from autoquant.results.plots.sensitivity import sensitivity_figure

__all__ = [
    "distributions_figure",
    "layers_figure",
    "pareto_figure",
    "sensitivity_figure",
]
