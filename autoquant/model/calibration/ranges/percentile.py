"""Percentile: the same small share of the values is clipped at either end."""

from __future__ import annotations

from autoquant.model.calibration.ranges.density import Density, Range, with_zero


def percentile_range(density: Density, percentile: float) -> Range:
    """Find the range between the two percentiles (Wu et al., arXiv:2004.09602, section 4.2).

    Their percentile is one of absolute values, for symmetric grids; an affine grid has an end of
    its own on either side, so `100 - percentile` is clipped below and above.
    """
    share = percentile / 100.0
    return with_zero(density.quantile(1.0 - share), density.quantile(share))
