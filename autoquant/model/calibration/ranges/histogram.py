"""A histogram whose range grows with what it is shown."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 2048
_FINER = 16
"""Parts into which a bin is cut when its counts move to a wider range."""
_EXACT = 1 << 23
"""Values that `histc` counts at a time: its float32 counts are exact up to twice as many."""


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
        for part in values.reshape(-1).split(_EXACT):
            self.counts += torch.histc(part, BINS, min=new_low, max=new_high)

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
