"""Grids of the tensors of the float graph, from the cached statistics."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.backends.onnxruntime.float_graph import FloatGraph
from autoquant.model.calibration.ranges.grid import Grid, affine_grid, symmetric_grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges


class TensorGrids:
    """Finds the grid of every tensor; those of constants once."""

    def __init__(self, graph: FloatGraph, ranges: TensorRanges) -> None:
        self._graph = graph
        self._ranges = ranges
        self.weight_bits = ranges.weight_bits
        self._constants: dict[tuple[str, bool], Grid] = {}

    def int8(self, tensor: str, limits: tuple[float, float] | None = None) -> Grid:
        """Grid of 256 levels, between the limits of a clipping: levels outside would be lost.

        Raises:
            ValueError: Calibration did not see the tensor.
        """
        grid = self._of_constant(tensor, symmetric=False)
        grid = grid or self._ranges.int8_grid(self._origin(tensor))
        if limits is None:
            return grid
        return affine_grid((max(grid.lowest, limits[0]), min(grid.highest, limits[1])))

    def knows(self, tensor: str) -> bool:
        """Whether a tensor is a float that calibration saw, or a constant."""
        try:
            self.int8(tensor)
        except ValueError:
            return False
        return True

    def int16(self, tensor: str) -> Grid:
        """Symmetric grid of 65536 levels.

        Raises:
            ValueError: Calibration did not see the tensor.
        """
        grid = self._of_constant(tensor, symmetric=True)
        return grid or self._ranges.int16_grid(self._origin(tensor))

    def _of_constant(self, tensor: str, *, symmetric: bool) -> Grid | None:
        """Grid of the values of a constant; None: it is none."""
        array = self._graph.initializers.get(tensor)
        if array is None:
            return None
        key = (tensor, symmetric)
        if key not in self._constants:
            ends = float(array.min()), float(array.max())
            self._constants[key] = symmetric_grid(ends) if symmetric else affine_grid(ends)
        return self._constants[key]

    def _origin(self, tensor: str) -> str:
        origins: Mapping[str, str] = self._graph.tensors
        if tensor not in origins:
            raise ValueError(f"tensor {tensor!r} comes from no node of the captured graph")
        return origins[tensor]
