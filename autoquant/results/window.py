"""The part of an axis worth showing, where a few extreme points would flatten the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FENCE = 3.0
_MARGIN = 0.06


@dataclass(frozen=True, slots=True)
class Window:
    """A range of an axis, and how many points it leaves out."""

    low: float
    high: float
    outside: int


def window(values: Sequence[float], kept: Sequence[float], ceiling: float | None = None) -> Window:
    """Choose a range that shows all of `kept` and most of `values`.

    Values beyond Tukey's outer fences (three times the length of the central half, on either
    side of it) stay outside unless kept; so does all that reaches the ceiling.

    Args:
        values: Positions of the points, at least one.
        kept: Positions that must be seen.
        ceiling: From here on a value means "no limit" and has no place on the axis.

    >>> window([0.0, 1.0, 2.0, 3.0, 500.0], [3.0]).outside
    1
    """
    below = [value for value in values if ceiling is None or value < ceiling] or list(values)
    wanted = [value for value in kept if ceiling is None or value < ceiling]
    first, third = (float(item) for item in np.quantile(below, (0.25, 0.75)))
    reach = _FENCE * (third - first)
    inside = [value for value in below if first - reach <= value <= third + reach]
    low, high = min([*inside, *wanted]), max([*inside, *wanted])
    margin = _MARGIN * (high - low) or 1.0
    outside = sum(not low <= value <= high for value in values)
    return Window(low - margin, high + margin, outside)
