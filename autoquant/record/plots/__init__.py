"""Plotly figures of what a search found."""

from __future__ import annotations

from autoquant.record.plots.layers import distributions_figure, layers_figure
from autoquant.record.plots.pareto import Arrangement, pareto_figure
from autoquant.record.plots.precision_map import precision_figure
from autoquant.record.plots.progress import progress_figure
from autoquant.record.plots.sensitivity import sensitivity_figure

__all__ = [
    "Arrangement",
    "distributions_figure",
    "layers_figure",
    "pareto_figure",
    "precision_figure",
    "progress_figure",
    "sensitivity_figure",
]
