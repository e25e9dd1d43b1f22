"""The range of a tensor, by the name of the observer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from autoquant.core.observers import ObserverName
from autoquant.core.ranges import RangeRules
from autoquant.core.statistics import TensorStatistics
from autoquant.model.calibration.ranges.density import Density, Range
from autoquant.model.calibration.ranges.kl import kl_range
from autoquant.model.calibration.ranges.least_error import least_error_range
from autoquant.model.calibration.ranges.moving_average import moving_average_range
from autoquant.model.calibration.ranges.mse import mse_range
from autoquant.model.calibration.ranges.percentile import percentile_range

FROM_HISTOGRAM: Mapping[ObserverName, Callable[[Density, int, float], Range]] = {
    ObserverName.HISTOGRAM: lambda density, *_: least_error_range(density),
    ObserverName.PERCENTILE: lambda density, _, percentile: percentile_range(density, percentile),
    ObserverName.KL: lambda density, levels, _: kl_range(density, levels),
    ObserverName.MSE: lambda density, levels, _: mse_range(density, levels),
}
"""(density, levels, percentile) -> range."""


def find_range(
    observer: ObserverName, seen: TensorStatistics, levels: int, rules: RangeRules
) -> Range:
    """Find the range that an observer gives to what calibration saw.

    Args:
        observer: Any but `mix`, which is settled before.
        seen: Of the tensor.
        levels: Of the grid: 256, or 128 with a reduced range.
        rules: The observers' parameters.

    Raises:
        ValueError: It needs what these statistics do not hold.
    """
    if observer is ObserverName.MINMAX:
        return seen.low, seen.high
    if observer is ObserverName.MOVING_AVERAGE:
        if not len(seen.batch_low):
            raise ValueError("these statistics hold no ranges of batches: calibrate again")
        return moving_average_range(seen.batch_low, seen.batch_high, rules.averaging)
    low, high = seen.histogram_low, seen.histogram_high
    if not low < high or not seen.histogram.sum() > 0:  # one value only
        return low, high
    density = Density(seen.histogram.astype(np.float64), low, high)
    return FROM_HISTOGRAM[observer](density, levels, rules.percentile)
