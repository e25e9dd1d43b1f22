"""Least error: torch's HistogramObserver, which clips where that lowers the expected error."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import partial

import numpy as np

from autoquant.model.calibration.ranges.density import Density, Floats, Range, with_zero

_STEP = 1e-5
"""Share of the values by which the walk clips more."""
_STEPS = round(1 / _STEP)
_CELLS = 256
"""Levels of the grid, also of a reduced one, as in torch."""


def least_error_range(density: Density) -> Range:
    """Walk inwards from the full range for as long as the expected squared error falls.

    The search of torch's HistogramObserver (caffe2's NormMinimization): every step gives up 1e-5
    of the values at the end where that skips more bins, until the error rises. torch computes in
    float32, this in float64: where two ranges err alike, the two may stop a step apart.
    """
    below = np.cumsum(density.counts).tolist()
    start, stop = 0, len(below) - 1
    left = right = 0
    least = np.inf
    while left + right < _STEPS and start < stop:
        first = bisect_left(below, (left + 1) * _STEP * below[-1])
        last = bisect_right(below, (1 - (right + 1) * _STEP) * below[-1]) - 1
        low = max(start, min(first, stop))
        high = min(stop, max(last, start))
        if low - start > stop - high:
            moved, left = (low, stop), left + 1
        elif high < stop:
            moved, right = (start, high), right + 1
        else:  # a step within the bins at both ends: on to the first that leaves the last bin
            steps = range(right, _STEPS - left)
            right += bisect_left(steps, True, key=partial(_leaves, below[stop], below[-1]))
            continue
        error = _expected_error(density, *moved)
        if error > least:
            break
        least, (start, stop) = error, moved
    return with_zero(density.low + density.width * start, density.low + density.width * (stop + 1))


def _leaves(below: float, total: float, step: int) -> bool:
    """Whether a step at the upper end leaves the bin up to which so many values lie."""
    return (1 - (step + 1) * _STEP) * total < below


def _expected_error(density: Density, start: int, stop: int) -> float:
    """Squared error when the bins from `start` to `stop` are rounded to the middles of the cells.

    Values count as evenly spread in their bin, and the integral of x^2 about a cell's middle is
    taken over the part of the bin that lies in it.
    """
    width = density.width
    cell = width * (stop - start + 1) / _CELLS
    begin = (np.arange(len(density.counts)) - start) * width
    end = begin + width
    first = np.clip(np.floor(begin / cell), 0, _CELLS - 1)
    last = np.clip(np.floor(end / cell), 0, _CELLS - 1)
    half = cell / 2
    spread = (
        _cubes(begin - (first + 0.5) * cell, half)
        + (last - first - 1) * _cubes(-half, half)
        + _cubes(-half, end - (last + 0.5) * cell)
    )
    return float((density.counts / width * spread).sum())


def _cubes(begin: Floats | float, end: Floats | float) -> Floats | float:
    """Integral of x^2."""
    return (end**3 - begin**3) / 3
