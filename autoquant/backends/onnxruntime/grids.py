"""Integers of tensors and weights, as ONNX Runtime's kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.backends.byte_codes import byte_codes
from autoquant.model.calibration.ranges.grid import Grid

Floats = npt.NDArray[np.float32]
Array = np.ndarray[Any, Any]

_WIDEST_BIAS = 2**30


def type_of(grid: Grid) -> str:
    """In which integers a tensor on a grid is written: `uint8` or `int16`."""
    return "int16" if grid.low < 0 else "uint8"


def zero_of(grid: Grid) -> Array:
    """A grid's zero point as a scalar of its type."""
    return np.array(grid.zero_point, type_of(grid))


@dataclass(frozen=True, slots=True, eq=False)
class ByteWeight:
    """A weight on symmetric grids, one for each output channel.

    Attributes:
        codes: int8, shape of the weight.
        scale: Shape (channels,); a scalar where all channels share one.
    """

    codes: npt.NDArray[np.int8]
    scale: Floats


def byte_weight(
    weight: Array,
    axis: int | None,
    bias: Array | None = None,
    input_scale: float = 1.0,
    *,
    bits: int = 8,
) -> ByteWeight:
    """Round a weight to levels -127 to 127, or -63 to 63 of seven bits.

    A channel with tiny weights and a large bias gets a wider grid, so that the bias fits into 32
    bits on the grid of its sums, whose step is `input_scale` times the weight's.

    Args:
        weight: Any shape.
        axis: Dimension of the output channels; None: one grid for all of them.
        bias: Shape (channels,), where sums start.
        input_scale: Step of the input's grid.
        bits: 8 or 7.
    """
    least = np.float32(0.0) if bias is None else np.abs(bias) / (input_scale * _WIDEST_BIAS)
    if axis is None:
        codes, scale = byte_codes(weight, (), bits, least.max())
        return ByteWeight(codes, scale.reshape(()))
    shape = [1] * weight.ndim
    shape[axis] = -1
    codes, scale = byte_codes(weight, (axis,), bits, least.reshape(shape))
    return ByteWeight(codes, scale.reshape(-1))


def sum_codes(bias: Array, input_scale: float, weight: ByteWeight) -> npt.NDArray[np.int32]:
    """Write a bias as int32 on the grid of a kernel's sums."""
    step = np.float32(input_scale) * weight.scale
    codes: npt.NDArray[np.int32] = np.rint(bias.astype(np.float64) / step).astype(np.int32)
    return codes
