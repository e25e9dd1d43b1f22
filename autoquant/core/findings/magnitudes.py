"""How the magnitudes of a tensor are spread: a histogram whose bins are those of float32 itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DROPPED_BITS = 19
"""Of a float32's 32: what is left are sign, exponent and four bits of the mantissa."""

BIN_COUNT = 1 << (32 - DROPPED_BITS)
_HALF = BIN_COUNT // 2
_FINITE = 255 << (23 - DROPPED_BITS)
_LOWER: Floats = np.append(
    (np.arange(_FINITE, dtype=np.uint32) << DROPPED_BITS).view(np.float32).astype(np.float64),
    float(np.finfo(np.float32).max),
)
"""Lower edges of the finite bins, and the upper edge of the last one."""
_FP16_MANTISSA_BITS = 10
_FP16_SMALLEST_EXPONENT = -14
_FP16_LARGEST = 65504.0


@dataclass(frozen=True, eq=False, slots=True)
class Magnitudes:
    """Counts of values by sign, exponent and leading mantissa bits.

    The bins are fixed, 16 an octave, so that one pass over data of unknown range fills them, and
    the tails are as exact as the middle: a quantile is known to one part in 16.

    Attributes:
        counts: Shape (8192,): positive values from the smallest on, then negative ones likewise.
    """

    counts: Counts

    def __post_init__(self) -> None:
        if self.counts.shape != (BIN_COUNT,):
            raise ValueError(f"counts must be of shape ({BIN_COUNT},), got {self.counts.shape}")

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """Magnitude that this share of the values does not exceed, to one part in 16.

        >>> counts = np.zeros(BIN_COUNT, np.int64)
        >>> counts[np.float32(1.0).view(np.uint32) >> DROPPED_BITS] = 8
        >>> Magnitudes(counts).quantile(0.5)
        1.03125
        """
        folded = self._folded()
        reached = np.cumsum(folded)
        if not reached[-1]:
            return 0.0
        index = int(np.searchsorted(reached, share * reached[-1]))
        before = reached[index - 1] if index else 0
        inside = (share * reached[-1] - before) / max(folded[index], 1)
        return float(
            _LOWER[index] + min(max(inside, 0.0), 1.0) * (_LOWER[index + 1] - _LOWER[index])
        )

    def power(self) -> float:
        """Mean square of the values."""
        return self._mean(_middles() ** 2)

    def rounding_noise(self, step: float) -> float:
        """Mean squared error of rounding to multiples of a step, nothing clipped.

        A value of at least half a step errs uniformly, by step^2 / 12 on average (Widrow and
        Kollar, Quantization Noise, 2008, ch. 1); a smaller one becomes zero and errs by itself.
        """
        middles = _middles()
        return self._mean(np.where(middles < step / 2, middles**2, step**2 / 12))

    def half_noise(self) -> float:
        """Mean squared error of rounding to fp16; infinite where a value overflows it."""
        middles = _middles()
        exponents = np.floor(np.log2(np.maximum(middles, 2.0**_FP16_SMALLEST_EXPONENT)))
        steps = 2.0 ** (exponents - _FP16_MANTISSA_BITS)
        noise = np.where(middles < steps / 2, middles**2, steps**2 / 12)
        folded = self._folded()
        if folded[:_FINITE][middles > _FP16_LARGEST].any():
            return float("inf")
        return self._mean(noise)

    def clipping_noise(self, low: float, high: float) -> float:
        """Mean squared error of clipping to `[low, high]`, values spread evenly within a bin."""
        if not self.total:
            return 0.0
        above = _excess(_LOWER[:-1], _LOWER[1:], high)
        below = _excess(_LOWER[:-1], _LOWER[1:], -low)
        positive, negative = self.counts[:_FINITE], self.counts[_HALF : _HALF + _FINITE]
        return float((positive * above + negative * below).sum() / self.total)

    def densities(self, edges: Floats) -> Floats:
        """Share of the values in each interval of a linear axis, values even within a bin.

        Args:
            edges: Shape (n + 1,), ascending.

        Returns:
            Shape (n,).
        """
        lower = np.concatenate([-_LOWER[1:][::-1], _LOWER[:-1]])
        upper = np.concatenate([-_LOWER[:-1][::-1], _LOWER[1:]])
        negative = self.counts[_HALF : _HALF + _FINITE][::-1]
        counts = np.concatenate([negative, self.counts[:_FINITE]]).astype(np.float64)
        kept = counts > 0
        lower, upper, counts = lower[kept], upper[kept], counts[kept]
        inside = (edges[None, :] - lower[:, None]) / (upper - lower)[:, None]
        below = (np.clip(inside, 0.0, 1.0) * counts[:, None]).sum(0)
        return np.asarray(np.diff(below) / max(self.total, 1), dtype=np.float64)

    def _folded(self) -> Counts:
        """Counts by magnitude, whatever the sign, shape (4096,)."""
        return np.asarray(self.counts[:_HALF] + self.counts[_HALF:], dtype=np.int64)

    def _mean(self, values: Floats) -> float:
        """Mean over the counted values of something that each bin has."""
        return float((self._folded()[:_FINITE] * values).sum() / max(self.total, 1))


def _middles() -> Floats:
    """Middles of the finite bins; zero for the first, which holds zero and subnormals."""
    middles = (_LOWER[:-1] + _LOWER[1:]) / 2
    middles[0] = 0.0
    return np.asarray(middles, dtype=np.float64)


def _excess(lower: Floats, upper: Floats, bound: float) -> Floats:
    """Mean over [lower, upper] of max(x - bound, 0)^2."""
    start = np.maximum(lower - bound, 0.0)
    end = np.maximum(upper - bound, 0.0)
    return np.asarray((end**3 - start**3) / (3.0 * (upper - lower)), dtype=np.float64)
