"""Moving average: each batch draws the range a little towards its own."""

from __future__ import annotations

import numpy as np

from autoquant.core.statistics import Array
from autoquant.model.calibration.ranges.density import Range


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
