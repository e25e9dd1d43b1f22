"""What the rules share while one plan is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from autoquant.backends.onnxruntime.float_graph import FloatGraph
from autoquant.backends.onnxruntime.grids import Array
from autoquant.backends.onnxruntime.ranges import TensorGrids
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.onnxruntime.weights import Weights
from autoquant.backends.onnxruntime.writer import GraphWriter
from autoquant.model.calibration.ranges.grid import Grid


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """What the rules share while one plan is written."""

    graph: FloatGraph
    grids: TensorGrids
    weights: Weights
    writer: GraphWriter
    wanted: frozenset[str]

    def dequantized(self, tensor: str) -> tuple[str, Grid]:
        """A tensor straight from its codes."""
        known = self.writer.written_codes(tensor)
        return self.writer.dequantized(tensor, known[1] if known else self.grids.int8(tensor))

    def codes(self, tensor: str) -> tuple[str, Grid]:
        """Codes of a tensor."""
        known = self.writer.written_codes(tensor)
        return known or self.writer.as_codes(tensor, self.grids.int8(tensor))

    def clipped(self, unit: Unit, name: str) -> str:
        """Write a unit's clipping after its kernel."""
        if unit.clip is None:
            return name
        bounds = [self.writer.as_float(item) for item in unit.clip.input[1:]]
        return self.writer.copy(unit.clip, [name, *bounds])

    def bias(self, root: NodeProto) -> Array | None:
        """Bias of a layer that takes it as its third input."""
        return self.graph.initializers.get(root.input[2]) if len(root.input) > 2 else None

    def write_codes(self, unit: Unit, name: str) -> None:
        """Write the output of a unit as codes on its own grid."""
        limits = None if unit.clip is None else limits_of(self.graph, unit.clip)
        grid = self.grids.int8(unit.output, limits)
        codes = self.writer.quantize(unit.output, self.clipped(unit, name), grid)
        self.writer.set_codes(unit.output, codes, grid)

    def write_float(self, unit: Unit, name: str) -> None:
        """Write the output of a unit as float."""
        self.writer.set_float(unit.output, self.clipped(unit, name))

    def static_layer(
        self, root: NodeProto, *, axis: int | None, bias: Array | None, grid: Grid
    ) -> list[str]:
        """Weight and bias of a layer that reads a grid, as int8 and int32, dequantized."""
        layer = self.weights.static(
            self.writer, root.name, root.input[1], axis=axis, bias=bias, grid=grid
        )
        parts = [("weight", layer.codes, layer.scale, layer.zero_point)]
        if bias is not None:
            parts.append(("bias", layer.bias, layer.bias_scale, layer.bias_zero_point))
        axes: dict[str, Any] = {"weight": {"axis": axis}, "bias": {"axis": 0}}
        axes = axes if axis is not None else {}
        return [
            self.writer.node(
                "DequantizeLinear", names, f"{root.name}/{part}:float", **axes.get(part, {})
            )
            for part, *names in parts
        ]


def limits_of(graph: FloatGraph, clip: NodeProto) -> tuple[float, float]:
    """Between which values a Relu or Clip keeps its output."""
    if clip.op_type == "Relu":
        return 0.0, float("inf")
    bounds = [graph.initializers.get(item) if item else None for item in clip.input[1:]]
    bounds += [None] * (2 - len(bounds))
    low, high = (None if item is None else float(item) for item in bounds)
    return -np.inf if low is None else low, np.inf if high is None else high
