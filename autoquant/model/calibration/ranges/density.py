"""A histogram of a tensor's values, and what can be asked of it."""

from __future__ import annotations

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
