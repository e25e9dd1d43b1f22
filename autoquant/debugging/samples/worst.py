"""What is kept while samples stream by: the worst few, and a histogram."""

from __future__ import annotations

import heapq
from itertools import count

import torch
from torch import Tensor

from autoquant.core.findings.badcases import BadCase, DecibelCounts
from autoquant.core.measurement import SQNR_CEILING_DB

_BIN_DB = 0.1


class Worst:
    """The worst samples by one number; memory depends on `top` alone."""

    def __init__(self, top: int, *, is_score: bool) -> None:
        self._sign = -1.0 if is_score else 1.0
        self._top = top
        self._heap: list[tuple[float, int]] = []  # (badness, -index): the mildest is on top

    def add(self, first: int, values: Tensor) -> None:
        """Take in one batch: its first sample's index, and one value for each sample."""
        for index, value in zip(count(first), (self._sign * values).tolist(), strict=False):
            if len(self._heap) < self._top:
                heapq.heappush(self._heap, (value, -index))
            else:
                heapq.heappushpop(self._heap, (value, -index))

    def finish(self) -> tuple[BadCase, ...]:
        """Give them, worst first; equally bad ones by index."""
        ranked = sorted(self._heap, reverse=True)
        return tuple(BadCase(-index, self._sign * badness) for badness, index in ranked)


class LevelCounter:
    """Counts samples by a level in bins of a tenth of a decibel between -150 and 150."""

    def __init__(self) -> None:
        bins = round(2 * SQNR_CEILING_DB / _BIN_DB)
        self._counts = torch.zeros(bins, dtype=torch.long)

    def add(self, values: Tensor) -> None:
        """Take in one batch: values in dB, shape (samples,)."""
        bins = ((values + SQNR_CEILING_DB) / _BIN_DB).floor().long()
        self._counts += torch.bincount(
            bins.clamp(0, len(self._counts) - 1), minlength=len(self._counts)
        )

    def finish(self) -> DecibelCounts:
        """Give the counts."""
        return DecibelCounts(-SQNR_CEILING_DB, _BIN_DB, tuple(self._counts.tolist()))
