"""Statistics: what calibration saw of each tensor, once, at full precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autoquant.core.ranges import ObserverName

__all__ = ["Array", "CalibrationStatistics", "ObserverName", "TensorStatistics"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class TensorStatistics:
    """What calibration saw of one tensor (or of several that share an observer).

    Attributes:
        low: Smallest value seen.
        high: Largest value seen.
        histogram: Shape (bins,): how often each bin of `[histogram_low, histogram_high]` was
            hit, as torch's HistogramObserver counts it.
        histogram_low: Lower edge of the first bin.
        histogram_high: Upper edge of the last bin.
        channel_low: Shape (channels,): smallest value of each channel: of dimension 1,
            or the last where the features of tokens are.
        channel_high: Shape (channels,): largest value of each channel.
        sample_low: Shape (samples,): smallest value of each sample.
        sample_high: Shape (samples,): largest value of each sample.
        batch_low: Shape (batches,): smallest value of each tensor that the observer was shown, in
            that order; empty where an older version calibrated.
        batch_high: Shape (batches,): largest value of each.
    """

    low: float
    high: float
    histogram: Array
    histogram_low: float
    histogram_high: float
    channel_low: Array
    channel_high: Array
    sample_low: Array
    sample_high: Array
    batch_low: Array = field(default_factory=lambda: np.empty(0, np.float32))
    batch_high: Array = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        for array in (
            self.histogram,
            self.channel_low,
            self.channel_high,
            self.sample_low,
            self.sample_high,
            self.batch_low,
            self.batch_high,
        ):
            array.setflags(write=False)


@dataclass(frozen=True, eq=False)
class CalibrationStatistics:
    """Statistics of every tensor that a plan may have to quantize.

    Attributes:
        tensors: By key: the tensor's node name, or several joined by `+` in execution order for
            tensors that share one observer.
        samples: How many calibration samples were seen.
        digest: Hash of the model's weights and the calibration data they stand for.
    """

    tensors: Mapping[str, TensorStatistics]
    samples: int
    digest: str
