"""KL: the range within which the rounded distribution diverges least from the one seen."""

from __future__ import annotations

import math

import numpy as np

from autoquant.model.calibration.ranges.density import Density, Floats, Range, least_loss, with_zero

_CANDIDATES = 96
_TINY = 1e-12


def kl_range(density: Density, levels: int) -> Range:
    """Find the range of least divergence (Migacz, 8-bit Inference with TensorRT, GTC 2017).

    For every candidate, P is the histogram inside with what lies outside added to its end bins,
    and Q the histogram inside merged to `levels` cells, each spread evenly over those of its bins
    that are not empty. The range of least KL(P || Q) wins. Migacz scans one threshold for a
    symmetric grid; here the two ends of an affine grid are scanned in turn. A range has at least
    one bin for each level, as there: with an outlier beyond `bins / levels` times the bulk the
    bulk cannot be reached. The bin of zero counts as its neighbour, as in NVIDIA's
    pytorch-quantization: behind a relu it outweighs all others, and has no error on any grid.
    """
    bins = len(density.counts)
    zero = min(max(round(-density.low / density.width), 0), bins)
    starts = _ends(0, zero)
    stops = _ends(bins, zero)

    counts = density.counts.copy()
    counts[min(zero, bins - 1)] = counts[zero + 1 if zero + 1 < bins else bins - 2]

    def loss(ends: Range) -> float:
        return divergence(counts, int(ends[0]), int(ends[1]), levels)

    start, stop = least_loss(loss, starts, stops)
    edges = density.edges
    return with_zero(float(edges[int(start)]), float(edges[int(stop)]))


def divergence(counts: Floats, start: int, stop: int, levels: int) -> float:
    """KL(P || Q) in nats of the bins from `start` to `stop`, infinite for fewer than `levels`."""
    if stop - start < levels:
        return math.inf
    inside = counts[start:stop]
    cells = np.arange(len(inside)) * levels // len(inside)
    filled = inside > 0
    sums = np.bincount(cells, weights=inside, minlength=levels)
    sizes = np.bincount(cells, weights=filled, minlength=levels)
    merged = np.where(filled, (sums / np.maximum(sizes, 1))[cells], 0.0)
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[stop:].sum()
    p = clipped / max(clipped.sum(), _TINY)
    q = merged / max(merged.sum(), _TINY)
    held = p > 0
    return float((p[held] * np.log(p[held] / np.maximum(q[held], _TINY))).sum())


def _ends(widest: int, zero: int) -> Floats:
    """Bin edges from the widest to zero, evenly spaced."""
    return np.rint(np.linspace(widest, zero, _CANDIDATES))
