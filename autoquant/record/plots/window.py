"""The part of an axis worth showing, where a few extreme points would flatten the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_REACH = 3.0
_MARGIN = 0.08


@dataclass(frozen=True, slots=True)
class Window:
    """A range of an axis, and how many points it leaves out."""

    low: float
    high: float
    outside: int


def window(values: Sequence[float], kept: Sequence[float]) -> Window | None:
    """Choose a range that shows all of `kept` and most of `values`.

    The range spans the central half of the values, stretched by three times its length on
    either side (Tukey's outer fences), and never leaves a kept value out. None where all values
    lie within: the axis then ranges by itself.

    >>> window([0.0, 1.0, 2.0, 3.0, 4.0], [4.0]) is None
    True
    >>> window([0.0, 1.0, 2.0, 3.0, 500.0], [3.0]).outside
    1
    """
    if not values:
        return None
    first, third = (float(item) for item in np.quantile(values, (0.25, 0.75)))
    reach = _REACH * (third - first)
    low = max(min(values), min([first - reach, *kept]))
    high = min(max(values), max([third + reach, *kept]))
    if third == first or (low == min(values) and high == max(values)):
        return None
    shown = [value for value in values if low <= value <= high]
    margin = _MARGIN * (max(shown) - min(shown))
    return Window(min(shown) - margin, max(shown) + margin, len(values) - len(shown))
