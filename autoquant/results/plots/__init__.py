"""Plotly figures of what a search found."""

from __future__ import annotations

from autoquant.results.plots.layers import distributions_figure, layers_figure
from autoquant.results.plots.pareto import Arrangement, pareto_figure
from autoquant.results.plots.precision_map import precision_figure
from autoquant.results.plots.progress import progress_figure
from autoquant.results.plots.sensitivity import sensitivity_figure

__all__ = [
    "Arrangement",
    "distributions_figure",
    "layers_figure",
    "pareto_figure",
    "precision_figure",
    "progress_figure",
    "sensitivity_figure",
]
