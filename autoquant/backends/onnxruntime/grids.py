"""Integer grids of tensors and weights, as ONNX Runtime's kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Array = np.ndarray[Any, Any]

_LEAST_SCALE = float(np.finfo(np.float32).tiny) * 1e8
_WIDEST_BIAS = 2**30


@dataclass(frozen=True, slots=True)
class Grid:
    """How a tensor's values are written as integers.

    Attributes:
        scale: Step between two levels.
        zero_point: The integer that stands for 0.
        dtype: `uint8` or `int16`.
    """

    scale: float
    zero_point: int
    dtype: str

    @property
    def zero(self) -> Array:
        """The zero point as a scalar of the grid's type."""
        return np.array(self.zero_point, self.dtype)


def byte_grid(low: float, high: float) -> Grid:
    """Give the grid of 256 levels of a range; 0 is one of them.

    >>> byte_grid(-100.0, 155.0)
    Grid(scale=1.0, zero_point=100, dtype='uint8')
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255.0, _LEAST_SCALE)
    return Grid(scale, min(max(round(-low / scale), 0), 255), "uint8")


def word_grid(high: float) -> Grid:
    """Give the symmetric grid of levels -32767 to 32767."""
    return Grid(max(high / 32767.0, _LEAST_SCALE), 0, "int16")


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
    high = 2 ** (bits - 1) - 1
    others = tuple(index for index in range(weight.ndim) if index != axis)
    limit = np.abs(weight).max(axis=others)
    scale = np.maximum(limit / high, _LEAST_SCALE)
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias) / (input_scale * _WIDEST_BIAS))
    scale = np.asarray(scale.max() if axis is None else scale, dtype=np.float32)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    codes = np.clip(np.rint(weight / scale.reshape(shape)), -high, high).astype(np.int8)
    return ByteWeight(codes, scale)


def sum_codes(bias: Array, input_scale: float, weight: ByteWeight) -> npt.NDArray[np.int32]:
    """Write a bias as int32 on the grid of a kernel's sums."""
    step = np.float32(input_scale) * weight.scale
    codes: npt.NDArray[np.int32] = np.rint(bias.astype(np.float64) / step).astype(np.int32)
    return codes
