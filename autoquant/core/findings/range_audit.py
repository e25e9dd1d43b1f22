"""Range audits: how well the grid of a tensor fits what calibration and a data set hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.core.statistics import TensorStatistics

Floats = npt.NDArray[np.float64]

NEAR_TOP = 4.0
"""What is wider than a quarter of the widest sets the range; what is narrower loses two bits."""


def widths(low: npt.ArrayLike, high: npt.ArrayLike) -> Floats:
    """Width of ranges that are stretched to hold zero, as every quantization range is."""
    lows = np.minimum(np.asarray(low, dtype=np.float64), 0.0)
    highs = np.maximum(np.asarray(high, dtype=np.float64), 0.0)
    return np.asarray(highs - lows, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Clipping:
    """What of a data set lies outside a tensor's grid.

    Attributes:
        low: Smallest value in the data.
        high: Largest value in the data.
        energy: Sum of the squared distances to the grid's nearest end.
        squares: Sum over samples of the square of a sample's energy.
        worst: Index of the sample that is clipped most.
        samples: Samples in the data.
        elements: Elements in the data.
    """

    low: float
    high: float
    energy: float
    squares: float
    worst: int
    samples: int
    elements: int

    @property
    def effective_samples(self) -> float:
        """How many samples share the clipping: (sum e)^2 / sum e^2, their participation number."""
        return self.energy**2 / self.squares if self.squares > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class RangeAudit:
    """One tensor of a built plan: what writes and reads it, the ends and the step of its grid.

    `site` is None for an input of the model; `seen` is what calibration saw of it, `clipping` what
    the data hold beyond the grid.
    """

    tensor: str
    site: str | None
    readers: tuple[str, ...]
    low: float
    high: float
    step: float
    seen: TensorStatistics
    clipping: Clipping

    @property
    def op(self) -> str:
        """The op to name: the one that writes it, or the first that reads it."""
        return self.site or (self.readers[0] if self.readers else self.tensor)

    @property
    def fineness(self) -> float:
        """How many times the 255 steps of int8 the grid has."""
        return (self.high - self.low) / self.step / 255.0

    @property
    def clip_ratio(self) -> float:
        """Energy lost by clipping over that lost by rounding, step^2 / 12 for every element.

        A range that is chosen for least squared error has about 1 on the data it was chosen on: it
        shrinks until clipping costs what finer steps gain.
        """
        return self.clipping.energy / (self.clipping.elements * self.step**2 / 12.0)

    @property
    def clip_ratio_there(self) -> float:
        """The same on the samples that share the clipping alone."""
        shares = self.clipping.effective_samples / self.clipping.samples
        return self.clip_ratio / shares if shares else 0.0

    @property
    def excess(self) -> float:
        """Grid over the whole range that calibration saw of this very tensor."""
        return self._over(float(widths(self.seen.low, self.seen.high)))

    @property
    def over_samples(self) -> float:
        """Grid over the range of the median calibration sample: what static scales waste."""
        return self._over(self._median(self.sample_widths))

    @property
    def over_channels(self) -> float:
        """Grid over the range of the median channel: what one scale for all channels wastes."""
        return self._over(self._median(self.channel_widths))

    @property
    def sample_widths(self) -> Floats:
        """Width of each calibration sample's range, shape (samples,)."""
        return widths(self.seen.sample_low, self.seen.sample_high)

    @property
    def channel_widths(self) -> Floats:
        """Width of each channel's range, shape (channels,)."""
        return widths(self.seen.channel_low, self.seen.channel_high)

    def wide_samples(self) -> tuple[int, ...]:
        """Calibration samples that set the range, widest first."""
        return _near_top(self.sample_widths)

    def wide_channels(self) -> tuple[int, ...]:
        """Channels that set the range, widest first."""
        return _near_top(self.channel_widths)

    def _over(self, width: float) -> float:
        return (self.high - self.low) / width if width > 0 else 1.0

    @staticmethod
    def _median(found: Floats) -> float:
        """Of what is not constantly zero: a dead channel or a blank sample needs no levels."""
        alive = found[found > 0]
        return float(np.median(alive)) if len(alive) else 0.0


def _near_top(found: Floats) -> tuple[int, ...]:
    order = np.argsort(-found, kind="stable")
    return tuple(int(item) for item in order if found[item] > found.max() / NEAR_TOP)
