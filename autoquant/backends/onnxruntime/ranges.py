"""Grids of the tensors of the float graph, from the cached statistics."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoquant.backends.onnxruntime.float_graph import FloatGraph
from autoquant.backends.onnxruntime.grids import Grid, byte_grid, word_grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges


class TensorGrids:
    """Finds the grid of every tensor; each is computed once."""

    def __init__(self, graph: FloatGraph, ranges: TensorRanges) -> None:
        self._graph = graph
        self._ranges = ranges
        self.weight_bits = ranges.weight_bits
        self._known: dict[tuple[str, str, tuple[float, float] | None], Grid] = {}

    def int8(self, tensor: str, limits: tuple[float, float] | None = None) -> Grid:
        """Grid of 256 levels, between the limits of a clipping: levels outside would be lost.

        Raises:
            ValueError: Calibration did not see the tensor.
        """
        key = (tensor, "int8", limits)
        if key not in self._known:
            low, high = self._range(tensor)
            if limits is not None:
                low, high = max(low, limits[0]), min(high, limits[1])
            self._known[key] = byte_grid(low, high)
        return self._known[key]

    def knows(self, tensor: str) -> bool:
        """Whether a tensor is a float that calibration saw, or a constant."""
        try:
            self.int8(tensor)
        except ValueError:
            return False
        return True

    def int16(self, tensor: str) -> Grid:
        """Symmetric grid of 65535 levels.

        Raises:
            ValueError: Calibration did not see the tensor.
        """
        key = (tensor, "int16", None)
        if key not in self._known:
            array = self._graph.initializers.get(tensor)
            if array is not None:
                self._known[key] = word_grid(float(np.abs(array).max()))
            else:
                self._known[key] = word_grid(self._ranges.int16(self._origin(tensor)).high)
        return self._known[key]

    def _range(self, tensor: str) -> tuple[float, float]:
        array = self._graph.initializers.get(tensor)
        if array is not None:
            return float(array.min()), float(array.max())
        found = self._ranges.int8(self._origin(tensor))
        return found.low, found.high

    def _origin(self, tensor: str) -> str:
        origins: Mapping[str, str] = self._graph.tensors
        if tensor not in origins:
            raise ValueError(f"tensor {tensor!r} comes from no node of the captured graph")
        return origins[tensor]
