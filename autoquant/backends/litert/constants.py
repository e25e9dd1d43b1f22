"""The constants of a converted file, rounded for each scheme and kept from plan to plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from autoquant.backends.litert.formats import Format, constant_format
from autoquant.backends.litert.operators import Weights
from autoquant.backends.litert.schema import Array, Graph, affine
from autoquant.backends.litert.weights import (
    StoredWeight,
    accumulates_in_int32,
    store_bias,
    store_weight,
)
from autoquant.core.precision import Scheme


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
