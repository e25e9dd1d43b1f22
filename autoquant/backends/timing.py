"""Timing calls, of which one may be shorter than what the clock can tell."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Clock = Callable[[], float]
"""Gives seconds."""

_STEADY_S = 0.3
"""A call that takes longer needs no second warm-up."""


def seconds_of(function: Callable[[], object], count: int, clock: Clock) -> float:
    """Seconds of one call, in the mean over a bundle."""
    started = clock()
    for _ in range(count):
        function()
    return (clock() - started) / count


def bundle_size(time_once: Callable[[], float], shortest_s: float) -> int:
    """Warm a call up, and say how many of it make one timing of `shortest_s` or more."""
    seconds = time_once()
    if seconds < _STEADY_S:  # what is set up in the first call does not count
        seconds = time_once()
    return calls_within(seconds, shortest_s)


def calls_within(seconds: float, slice_s: float) -> int:
    """How many calls fill a time slice."""
    return max(1, math.ceil(slice_s / max(seconds, 1e-6) - 1e-6))


def median_parts(samples: Floats) -> Floats:
    """Medians over the samples, scaled to sum to the median of the sums.

    The medians of skewed times sum to less.

    Args:
        samples: Shape (samples, parts): where the time of each call went.
    """
    medians = np.median(samples, axis=0)
    total = float(medians.sum())
    whole = float(np.median(samples.sum(axis=1)))
    found: Floats = medians * (whole / total) if total > 0.0 else medians
    return found
