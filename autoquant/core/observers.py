"""Observers by name: how the range of an int8 activation is found."""

from __future__ import annotations

from enum import Enum


class ObserverName(Enum):
    """How the range of an int8 activation is found.

    `histogram`: torch's HistogramObserver, which clips where that lowers the expected squared
    error. `minmax`: the full range seen. `moving_average`: torch's MovingAverageMinMaxObserver,
    the ranges of the batches averaged. `percentile`: a share of the values at either end is
    clipped. `kl`: least divergence of what is rounded from what was seen. `mse`: least squared
    error, over all ranges. `mix`: for each tensor the one of these with the least error at the
    model's outputs.
    """

    HISTOGRAM = "histogram"
    MINMAX = "minmax"
    MOVING_AVERAGE = "moving_average"
    PERCENTILE = "percentile"
    KL = "kl"
    MSE = "mse"
    MIX = "mix"
