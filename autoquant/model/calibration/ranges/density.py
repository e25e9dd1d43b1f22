"""A histogram of a tensor's values, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Range = tuple[float, float]
"""Lower and upper end of a grid, in the tensor's unit."""


@dataclass(frozen=True, eq=False, slots=True)
class Density:
    """Counts of values in equal bins from `low` to `high`, in each evenly spread."""

    counts: Floats
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high or self.counts.ndim != 1 or not self.counts.sum() > 0:
            raise ValueError(
                f"a density needs counts between two edges, got {self.counts.sum()} values "
                f"from {self.low} to {self.high}"
            )

    @property
    def width(self) -> float:
        """Of a bin."""
        return (self.high - self.low) / len(self.counts)

    @property
    def edges(self) -> Floats:
        """Shape (bins + 1,)."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    def quantile(self, share: float) -> float:
        """The value below which a share (0 to 1) of all values lies.

        >>> Density(np.array([1.0, 3.0]), 0.0, 2.0).quantile(0.5)
        1.3333333333333333
        """
        below = np.concatenate([[0.0], np.cumsum(self.counts)])
        return float(np.interp(share * below[-1], below, self.edges))


def with_zero(low: float, high: float) -> Range:
    """Widen a range so that it holds zero, which integer grids must represent (padding)."""
    return min(low, 0.0), max(high, 0.0)


_SWEEPS = 2
"""How often each end is scanned again after the other has moved."""


def least_loss(
    loss: Callable[[Range], float],
    lows: Sequence[float] | Floats,
    highs: Sequence[float] | Floats,
) -> Range:
    """Find a range of least loss: the upper end with the lower at its widest, then in turn."""
    all_lows, all_highs = (list(dict.fromkeys(map(float, ends))) for ends in (lows, highs))
    low, high = all_lows[0], all_highs[0]
    for _ in range(_SWEEPS):
        before = low, high
        high = min(all_highs, key=lambda item: loss((low, item)))
        low = min(all_lows, key=lambda item: loss((item, high)))
        if (low, high) == before:
            break
    return low, high
