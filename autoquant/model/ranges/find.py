"""The ranges that histograms give, by the name of the observer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoquant.core.observers import ObserverName
from autoquant.model.ranges.density import Density, Range
from autoquant.model.ranges.kl import kl_range
from autoquant.model.ranges.mse import mse_range
from autoquant.model.ranges.percentile import percentile_range

FROM_HISTOGRAM: Mapping[ObserverName, Callable[[Density, int, float], Range]] = {
    ObserverName.PERCENTILE: lambda density, _, percentile: percentile_range(density, percentile),
    ObserverName.KL: lambda density, levels, _: kl_range(density, levels),
    ObserverName.MSE: lambda density, levels, _: mse_range(density, levels),
}
"""(density, levels, percentile) -> range; torch has no observer for these."""
