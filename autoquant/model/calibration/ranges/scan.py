"""The range with the least loss, searched one end after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoquant.model.calibration.ranges.density import Floats, Range

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
