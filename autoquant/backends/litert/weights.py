"""Weights and biases in the formats that LiteRT's kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoquant.backends.litert.schema import Array

_WEIGHT_LIMIT = 127
_INT32_LIMIT = 2**31 - 1
_SMALLEST_SCALE = 1e-12
"""Of a channel whose weights are all zero."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A weight in int8, symmetric, with a scale for each output channel.

    Attributes:
        values: int8, in the weight's shape.
        scales: Shape (channels,).
        axis: The dimension that the channels are.
    """

    values: Array
    scales: Array
    axis: int


def store_weight(weight: Array, axis: int) -> StoredWeight:
    """Round a weight to -127 to 127, channel by channel (LiteRT's 8-bit specification)."""
    others = tuple(dimension for dimension in range(weight.ndim) if dimension != axis)
    largest = np.abs(weight).max(axis=others).astype(np.float64)
    scales = np.maximum(largest / _WEIGHT_LIMIT, _SMALLEST_SCALE)
    shape = [-1 if dimension == axis else 1 for dimension in range(weight.ndim)]
    levels = np.round(weight / scales.reshape(shape))
    stored = np.clip(levels, -_WEIGHT_LIMIT, _WEIGHT_LIMIT).astype(np.int8)
    return StoredWeight(stored, scales.astype(np.float32), axis)


def store_bias(bias: Array, scales: Array) -> Array:
    """Round a bias to int64 steps of `scales` (input scale times weight scale), by channel."""
    return np.round(bias.astype(np.float64) / scales).astype(np.int64)


def accumulates_in_int32(weight: StoredWeight, bias: Array) -> bool:
    """Whether no int16 input can overflow a 32-bit accumulator.

    The kernel with an int32 bias adds up in int32. The largest sum of a channel is that of inputs
    at the ends of their grid, all with the sign of their weight.
    """
    others = tuple(d for d in range(weight.values.ndim) if d != weight.axis)
    reach = np.abs(weight.values.astype(np.int64)).sum(axis=others) * 32768
    return bool((reach + np.abs(bias) <= _INT32_LIMIT).all())
