"""What calibration notes of one tensor while batches go by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoquant.core.statistics import TensorStatistics
from autoquant.model.calibration.ranges.histogram import Histogram

_Bounds = tuple[Tensor, Tensor]


class TensorObserver:
    """Collects the statistics of one tensor, or of several that count as one."""

    def __init__(self) -> None:
        self._histogram = Histogram()
        self._channels: _Bounds | None = None
        self._samples: list[_Bounds] = []
        self._batches: list[tuple[float, float]] = []

    def observe(self, tensor: Tensor) -> None:
        """Take in one batch; the first dimension is samples, the second channels.

        Raises:
            ValueError: It holds NaN or infinity.
        """
        values = tensor.detach().to(torch.float32)
        lows, highs = _bounds_by_channel(values)
        low, high = float(lows.amin()), float(highs.amax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("the tensor holds NaN or infinity")
        self._histogram.add(values, low, high)
        self._batches.append((low, high))
        self._samples.append((lows.amin(1), highs.amax(1)))
        if tensor.ndim > 1:
            self._merge_channels(lows.amin(0), highs.amax(0))

    def _merge_channels(self, low: Tensor, high: Tensor) -> None:
        if self._channels is None:
            self._channels = low, high
        elif self._channels[0].shape == low.shape:
            known_low, known_high = self._channels
            self._channels = torch.minimum(low, known_low), torch.maximum(high, known_high)
        else:  # sequences of other lengths: the dimension counts no channels
            self._channels = low[:0], high[:0]

    def statistics(self) -> TensorStatistics:
        """Give what was seen."""
        empty = torch.empty(0)
        channel_low, channel_high = self._channels or (empty, empty)
        found = self._histogram
        return TensorStatistics(
            low=found.low,
            high=found.high,
            histogram=_array(found.counts),
            histogram_low=found.low,
            histogram_high=found.high,
            channel_low=_array(channel_low),
            channel_high=_array(channel_high),
            sample_low=_array(torch.cat([low for low, _ in self._samples])),
            sample_high=_array(torch.cat([high for _, high in self._samples])),
            batch_low=np.array([low for low, _ in self._batches], np.float32),
            batch_high=np.array([high for _, high in self._batches], np.float32),
        )


def _bounds_by_channel(values: Tensor) -> _Bounds:
    """Smallest and largest value by sample and channel, each of shape (samples, channels)."""
    if values.ndim < 2:
        rows = values.reshape(max(1, len(values) if values.ndim else 1), -1)
        return rows, rows
    if values.ndim == 2:
        return values, values
    columns = values.flatten(2)
    return columns.amin(2), columns.amax(2)


def _array(tensor: Tensor) -> Any:
    return tensor.to(torch.float32).cpu().numpy().astype(np.float32, copy=True)
