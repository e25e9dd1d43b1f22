"""Weights as signed bytes around zero, as the engines beside torch store them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_LEAST_SCALE = 1e-30
"""Of weights that are all zero."""


def byte_codes(
    weight: np.ndarray[Any, Any],
    axes: tuple[int, ...],
    bits: int = 8,
    least: npt.ArrayLike = _LEAST_SCALE,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round to levels -127 to 127, or -63 to 63, with a scale for each index of some axes.

    Args:
        weight: Any shape.
        axes: Of the channels; none: all share one scale.
        bits: 8 or 7.
        least: What a scale is at least, in a shape that multiplies with the weight.

    Returns:
        Levels of the weight's shape, and scales of a shape that multiplies with it.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    high = 2 ** (bits - 1) - 1
    scale = np.maximum(np.maximum(largest / high, least), _LEAST_SCALE).astype(np.float32)
    return np.clip(np.rint(weight / scale), -high, high).astype(np.int8), scale
