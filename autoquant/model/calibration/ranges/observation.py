"""What calibration notes of one tensor while batches go by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoquant.core.statistics import TensorStatistics

BINS = 2048
_FINER = 16
"""Parts into which a bin is cut when its counts move to a wider range."""
_AT_ONCE = 1 << 17
"""Values that are counted at a time: what is made of so many stays in a core's cache."""


class Histogram:
    """Counts values in equal bins, with the semantics of torch's HistogramObserver.

    What widens the range moves the old counts to the new bins: each bin is cut in 16 parts, and a
    part goes where its middle lies. Counts are kept in float64, so that a bin of more than 2^24
    values (the zeros behind a relu) counts them all.

    Attributes:
        counts: Shape (bins,).
        low: Lower edge of the first bin; infinite before anything was shown.
        high: Upper edge of the last bin.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.low = float("inf")
        self.high = float("-inf")

    def add(self, values: Tensor, low: float, high: float) -> None:
        """Count values.

        Args:
            values: float32, any shape, finite.
            low: Their smallest.
            high: Their largest.
        """
        new_low, new_high = min(low, self.low), max(high, self.high)
        if (new_low, new_high) != (self.low, self.high) and self.low <= self.high:
            self.counts = self._moved(new_low, new_high)
        self.low, self.high = new_low, new_high
        self.counts += _counted(values.reshape(-1), new_low, new_high)

    def _moved(self, low: float, high: float) -> Tensor:
        """The counts in the bins of a wider range."""
        if self.low == self.high:
            alone = torch.histc(torch.tensor([self.low]), BINS, min=low, max=high)
            return alone.double() * self.counts.sum()
        width = (torch.tensor(self.high) - torch.tensor(self.low)) / (BINS * _FINER)
        middles = torch.linspace(self.low, self.high, BINS * _FINER + 1)[:-1] + 0.5 * width
        edges = torch.linspace(low, high, BINS + 1)
        bins = (torch.bucketize(middles, edges, right=True) - 1).clamp_(0, BINS - 1)
        parts = self.counts.repeat_interleave(_FINER) / _FINER
        return torch.bincount(bins, weights=parts, minlength=BINS)


def _counted(values: Tensor, low: float, high: float) -> Tensor:
    """Counts in equal bins, those of `torch.histc` in an eighth of its time.

    What has no width is left to it: it makes one around the value.
    """
    width = float(np.float32(high) - np.float32(low))
    if width == 0.0 or not np.isfinite(width):
        return torch.histc(values, BINS, min=low, max=high)
    counts = torch.zeros(BINS + 1, dtype=torch.int64, device=values.device)
    for part in values.split(_AT_ONCE):
        bins = part.sub(low).div_(width).mul_(BINS).to(torch.int32)
        counts += torch.bincount(bins, minlength=BINS + 1)
    counts[BINS - 1] += counts[BINS]  # the last bin holds its upper edge
    return counts[:BINS]


_Bounds = tuple[Tensor, Tensor]


class TensorObserver:
    """Collects the statistics of one tensor, or of several that count as one.

    Args:
        channel_axis: Of its channels; the first is that of samples.
    """

    def __init__(self, channel_axis: int = 1) -> None:
        self._channel_axis = channel_axis
        self._histogram = Histogram()
        self._channels: _Bounds | None = None
        self._samples: list[_Bounds] = []
        self._batches: list[tuple[float, float]] = []

    def observe(self, tensor: Tensor) -> None:
        """Take in one batch; the first dimension is samples."""
        values = tensor.detach().to(torch.float32)
        lows, highs = _bounds_by_channel(values, self._channel_axis)
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


def _bounds_by_channel(values: Tensor, axis: int) -> _Bounds:
    """Smallest and largest value by sample and channel, each of shape (samples, channels)."""
    if values.ndim < 2:
        rows = values.reshape(max(1, len(values) if values.ndim else 1), -1)
        return rows, rows
    if values.ndim == 2:
        return values, values
    columns = values.movedim(axis, 1).flatten(2)
    return columns.amin(2), columns.amax(2)


def _array(tensor: Tensor) -> Any:
    return tensor.to(torch.float32).cpu().numpy().astype(np.float32, copy=True)
