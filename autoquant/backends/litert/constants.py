"""The constants of a converted file, rounded for each scheme and kept from plan to plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from autoquant.backends.byte_codes import byte_codes
from autoquant.backends.litert.formats import Format, constant_format
from autoquant.backends.litert.operators import Weights
from autoquant.backends.litert.schema import Array, Graph, affine
from autoquant.core.precision import Scheme

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
    codes, scales = byte_codes(weight, (axis,), least=_SMALLEST_SCALE)
    return StoredWeight(codes, scales.reshape(-1), axis)


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


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant as a file keeps it.

    Attributes:
        type_name: `INT8`.
        values: In the tensor's shape.
        quantization: Its scales; None for floats.
    """

    type_name: str
    values: Array
    quantization: Any = None


class Constants:
    """Rounds the constants of a converted float file."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._weights: dict[int, StoredWeight] = {}
        self._operands: dict[tuple[int, Format], Constant] = {}

    def operand(self, tensor: int, scheme: Scheme) -> Constant:
        """Round a constant operand on a grid of its own."""
        return self.stored(tensor, constant_format(self._graph.values(tensor), scheme))

    def stored(self, tensor: int, held: Format) -> Constant:
        """Round a constant to a format."""
        key = (tensor, held)
        if key not in self._operands:
            values = held.store(self._graph.values(tensor))
            self._operands[key] = Constant(held.type_name, values, held.quantization)
        return self._operands[key]

    def weight(self, tensor: int, facts: Weights) -> Constant:
        """Round a weight to int8, with a scale for each output channel."""
        stored = self._weight(tensor, facts)
        zeros = np.zeros(len(stored.scales), np.int64)
        return Constant("INT8", stored.values, affine(stored.scales, zeros, stored.axis))

    def weight_scales(self, tensor: int, facts: Weights) -> Array:
        """Steps of a weight by channel."""
        return self._weight(tensor, facts).scales

    def bias(self, tensor: int, weight: int, facts: Weights, read: Format) -> Constant:
        """Round a bias to steps of input scale times weight scale.

        int32 for int8 inputs. For int16 inputs int64, or int32 where the kernel takes that and
        cannot overflow.
        """
        stored = self._weight(weight, facts)
        scales = stored.scales.astype(np.float64) * read.scale
        values = store_bias(self._graph.values(tensor), scales)
        narrow = facts.narrow_bias and accumulates_in_int32(stored, values)
        is_int32 = narrow or read.type_name == "INT8"
        if is_int32:
            limits = np.iinfo(np.int32)
            values = np.clip(values, limits.min, limits.max).astype(np.int32)
        zeros = np.zeros(len(scales), np.int64)
        return Constant("INT32" if is_int32 else "INT64", values, affine(scales, zeros))

    def _weight(self, tensor: int, facts: Weights) -> StoredWeight:
        if tensor not in self._weights:
            self._weights[tensor] = store_weight(self._graph.values(tensor), facts.channels)
        return self._weights[tensor]
