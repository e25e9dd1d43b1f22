"""The range of a tensor, by the name of the observer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from autoquant.core.ranges import ObserverName, RangeRules
from autoquant.core.statistics import Array, TensorStatistics
from autoquant.model.calibration.ranges.density import Density, Range, with_zero
from autoquant.model.calibration.ranges.kl import kl_range
from autoquant.model.calibration.ranges.least_error import least_error_range
from autoquant.model.calibration.ranges.mse import mse_range

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


def percentile_range(density: Density, percentile: float) -> Range:
    """Find the range between the two percentiles (Wu et al., arXiv:2004.09602, section 4.2).

    Their percentile is one of absolute values, for symmetric grids; an affine grid has an end of
    its own on either side, so `100 - percentile` is clipped below and above.
    """
    share = percentile / 100.0
    return with_zero(density.quantile(1.0 - share), density.quantile(share))


def moving_average_range(lows: Array, highs: Array, averaging: float) -> Range:
    """Average the ranges of batches as torch's MovingAverageMinMaxObserver does, bit for bit.

    The first batch's range is taken; then `x += averaging * (x_batch - x)` in float32 (Jacob et
    al., arXiv:1712.05877, section 3.1).

    Args:
        lows: Shape (batches,): smallest value of each batch; at least one.
        highs: Shape (batches,): largest value of each.
        averaging: Weight of the newest batch.
    """
    weight = np.float32(averaging)
    low, high = lows[0], highs[0]
    for batch_low, batch_high in zip(lows[1:], highs[1:], strict=True):
        low = low + weight * (batch_low - low)
        high = high + weight * (batch_high - high)
    return float(low), float(high)
