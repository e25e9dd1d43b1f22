"""MSE: the range whose rounding and clipping errors have the least mean square."""

from __future__ import annotations

import numpy as np

from autoquant.model.calibration.ranges.density import Density, Floats, Range, least_loss, with_zero

_SHARES = np.geomspace(1.0, 1e-3, 48)
"""Of the full range, that the first scan looks at."""
_NEAR = np.linspace(1.15, 0.87, 29)
"""Of what the first scan found, that the second looks at: to its neighbours, in steps of 1%."""
_POINTS = 4
"""Where in each bin the error is evaluated."""


def mse_range(density: Density, levels: int) -> Range:
    """Find the range with the least mean squared quantization error.

    The criterion of Nagel et al., arXiv:2106.08295, section 3.1 (eq. 11), evaluated on the
    histogram; both ends are scanned from the full range down to a thousandth of it, then finely
    around what that found.
    """
    points, weights = _points(density)
    low, high = with_zero(density.low, density.high)

    def loss(ends: Range) -> float:
        return mean_squared_error(points, weights, ends, levels)

    coarse = least_loss(loss, low * _SHARES, high * _SHARES)
    lows, highs = np.maximum(coarse[0] * _NEAR, low), np.minimum(coarse[1] * _NEAR, high)
    return least_loss(loss, lows, highs)


def mean_squared_error(points: Floats, weights: Floats, ends: Range, levels: int) -> float:
    """Weighted mean squared error of values rounded to an affine grid that represents zero.

    Args:
        points: Shape (n,): values.
        weights: Shape (n,): how often each occurs.
        ends: The grid's range; it holds zero.
        levels: Of the grid.
    """
    low, high = ends
    step = (high - low) / (levels - 1)
    if step <= 0.0:
        return float((weights * points**2).sum() / weights.sum())
    zero = round(-low / step)
    rounded = (np.clip(np.rint(points / step), -zero, levels - 1 - zero)) * step
    return float((weights * (points - rounded) ** 2).sum() / weights.sum())


def _points(density: Density) -> tuple[Floats, Floats]:
    """Evenly spaced values of each bin; what falls in the bin of zero counts as zero.

    Behind a relu most of that bin is exactly zero, and has no error on any grid.
    """
    kept = np.flatnonzero(density.counts)
    inside = (np.arange(_POINTS) + 0.5) / _POINTS
    starts = density.low + kept * density.width
    points = starts[:, None] + inside[None, :] * density.width
    holds_zero = (starts <= 0.0) & (starts + density.width >= 0.0)
    points[holds_zero] = 0.0
    weights = np.repeat(density.counts[kept] / _POINTS, _POINTS)
    return points.reshape(-1), weights
