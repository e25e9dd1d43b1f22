"""Pareto dominance and hypervolume over arrays of losses (lower is better)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def frontier_mask(losses: Floats) -> Mask:
    """Mark the points that no other point beats.

    A point is beaten when another is no worse in every objective and better in at least one;
    of equal points all stay. O(n log n) time for two objectives; for more, O(n m) for each point
    of the frontier.

    Args:
        losses: Shape (n, m): n points, m objectives, lower is better.

    Returns:
        Shape (n,): True where the point is on the frontier.

    >>> frontier_mask(np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 2.0]])).tolist()
    [True, True, False]
    """
    if losses.ndim != 2 or np.isnan(losses).any():
        raise ValueError(f"losses must be (n, m) without NaN, got shape {losses.shape}")
    if losses.size == 0:
        return np.ones(len(losses), dtype=np.bool_)
    points, place = np.unique(losses, axis=0, return_inverse=True)
    mask = _two_dimensional(points) if points.shape[1] == 2 else _by_comparison(points)
    return np.asarray(mask[place.ravel()])


def _two_dimensional(points: Floats) -> Mask:
    """Of sorted distinct points, those below all before them; the first is always one."""
    mask = np.ones(len(points), dtype=np.bool_)
    mask[1:] = points[1:, 1] < np.minimum.accumulate(points[:-1, 1])
    return mask


def _by_comparison(points: Floats) -> Mask:
    """Of sorted distinct points, those that no one before them is below everywhere."""
    mask = np.ones(len(points), dtype=np.bool_)
    for row, point in enumerate(points):
        if mask[row]:
            mask[row + 1 :] &= ~(points[row + 1 :] >= point).all(axis=1)
    return mask


def hypervolume(losses: Floats, reference: Floats) -> float:
    """Volume that the points dominate, up to the reference point.

    Slices along the last objective (HSO; While, Hingston, Barone and Huband, "A faster algorithm
    for calculating hypervolume", IEEE TEVC 10(1), 2006). Exact; O(n^(m-1) log n), meant for the
    two or three objectives of a search.

    Args:
        losses: Shape (n, m), lower is better.
        reference: Shape (m,); points that do not beat it in every objective add nothing.

    Returns:
        Volume in the product of the objectives' units.

    >>> hypervolume(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([2.0, 2.0]))
    3.0
    """
    if losses.ndim != 2 or losses.shape[1:] != reference.shape:
        raise ValueError(f"shapes do not fit: losses {losses.shape}, reference {reference.shape}")
    inside = losses[(losses < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if losses.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[frontier_mask(inside)]
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    upper = np.append(inside[1:, -1], reference[-1])
    volume = 0.0
    for count, (low, high) in enumerate(zip(inside[:, -1], upper, strict=True), start=1):
        if high > low:
            volume += float(high - low) * hypervolume(inside[:count, :-1], reference[:-1])
    return volume


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
