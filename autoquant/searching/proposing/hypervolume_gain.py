"""How much hypervolume a point would add to a frontier of two losses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoquant.core.pareto import frontier_mask

Floats = npt.NDArray[np.float64]


def area_gained(points: Floats, frontier: Floats, reference: Floats) -> Floats:
    """Area that each point alone would add to what a frontier dominates.

    The frontier cuts the first axis into steps; above each step the area still free reaches from
    the point up to the step's height.

    Args:
        points: Shape (n, 2): losses, lower is better.
        frontier: Shape (m, 2): points that are known; dominated ones among them change nothing.
        reference: Shape (2,): beyond it nothing counts.

    Returns:
        Shape (n,).

    >>> area_gained(np.array([[1.0, 1.0]]), np.array([[0.0, 2.0], [2.0, 0.0]]), np.full(2, 3.0))
    array([1.])
    """
    inside = frontier[(frontier < reference).all(axis=1)]
    steps = np.unique(inside[frontier_mask(inside)], axis=0)
    starts = np.concatenate([[-np.inf], steps[:, 0]])
    ends = np.concatenate([steps[:, 0], reference[:1]])
    heights = np.concatenate([reference[1:], steps[:, 1]])
    widths = np.clip(ends - np.maximum(starts, points[:, :1]), 0.0, None)
    free = np.clip(heights - points[:, 1:], 0.0, None)
    return np.asarray((widths * free).sum(axis=1))
