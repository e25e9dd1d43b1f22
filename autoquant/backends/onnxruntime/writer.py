"""Writes an ONNX graph: every tensor as float or as integers, whichever a kernel reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from autoquant.backends.onnxruntime.bodies import read_by, rename_outer
from autoquant.backends.onnxruntime.float_graph import OPSET, FloatGraph
from autoquant.backends.onnxruntime.grids import Array, type_of, zero_of
from autoquant.backends.onnxruntime.plan_model import PlanModel, plan_model
from autoquant.model.calibration.ranges.grid import Grid

CONTRIB = "com.microsoft"
"""ONNX Runtime's own operators."""

_IR_VERSION = 10


class GraphWriter:
    """Writes nodes and constants, and knows in which forms each tensor exists.

    A tensor of the float graph may exist as float, as integer codes, and rounded (as float again)
    to the grid of an emulated scheme; what a node asks for and does not exist yet is written then.
    """

    def __init__(self, graph: FloatGraph) -> None:
        self._graph = graph
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, Array | TensorProto] = {}
        self._floats = {item.name: item.name for item in graph.inputs}
        self._codes: dict[str, tuple[str, Grid]] = {}
        self._written_as_codes: set[str] = set()
        self._dequantized: dict[str, str] = {}
        self._dynamic: dict[str, tuple[str, str, str]] = {}
        self._rounded: dict[tuple[str, str], str] = {}
        self._marks: dict[str, Grid | None] = {}
        self._sources: dict[str, tuple[str, str, Grid]] = {}
        self._behind: set[str] = set()

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        name: str,
        *,
        outputs: Sequence[str] = (),
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Write a node; the tensor that it writes has its name, unless `outputs` says otherwise."""
        made = helper.make_node(
            op_type, inputs, outputs or [name], name=name, domain=domain, **attributes
        )
        self._nodes.append(made)
        return str(made.output[0])

    def copy(self, source: NodeProto, inputs: Sequence[str], outputs: Sequence[str] = ()) -> str:
        """Write a node of the float graph with other inputs, and with other outputs if named."""
        made = NodeProto()
        made.CopyFrom(source)
        del made.input[:]
        made.input.extend(inputs)
        rename_outer(made, self.as_float)
        if outputs:
            del made.output[:]
            made.output.extend(outputs)
        self._nodes.append(made)
        return str(made.output[0])

    def constant(self, name: str, values: Array | TensorProto) -> str:
        """Write a constant, once for each name."""
        self._constants.setdefault(name, values)
        return name

    def grid(self, tensor: str, grid: Grid) -> list[str]:
        """Write scale and zero point of a tensor's grid."""
        stem = f"{tensor}:{type_of(grid)}"
        return [
            self.constant(f"{stem}/scale", np.array(grid.scale, np.float32)),
            self.constant(f"{stem}/zero_point", zero_of(grid)),
        ]

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor of the float graph is an initializer."""
        return tensor in self._graph.initializers

    def set_float(self, tensor: str, name: str | None = None) -> None:
        """Say that a kernel writes a tensor as float."""
        self._floats[tensor] = name or tensor

    def set_codes(self, tensor: str, name: str, grid: Grid) -> None:
        """Say that a kernel writes a tensor as integers."""
        self._codes[tensor] = (name, grid)
        self._written_as_codes.add(tensor)

    def written_codes(self, tensor: str) -> tuple[str, Grid] | None:
        """The codes of a tensor that a kernel wrote as integers; None: it was written as float."""
        return self._codes[tensor] if tensor in self._written_as_codes else None

    def as_float(self, tensor: str) -> str:
        """Name of a tensor as float (or of whatever type it has, where that is no float)."""
        if tensor in self._graph.initializers:
            return self.constant(tensor, self._graph.initializers[tensor])
        if not tensor:
            return tensor
        if tensor not in self._floats:
            self._floats[tensor], _ = self.dequantized(tensor, self._codes[tensor][1])
        return self._floats[tensor]

    def as_codes(self, tensor: str, grid: Grid) -> tuple[str, Grid]:
        """Codes of a tensor, on the grid that it already has or else on this one."""
        if tensor not in self._codes:
            self._codes[tensor] = self.quantize(tensor, self.as_float(tensor), grid), grid
        return self._codes[tensor]

    def dequantized(self, tensor: str, grid: Grid) -> tuple[str, Grid]:
        """A tensor as float that comes straight from its codes, as fused kernels need it."""
        codes, grid = self.as_codes(tensor, grid)
        if tensor not in self._dequantized:
            self._dequantized[tensor] = self._dequantize(tensor, codes, grid, f"{tensor}:float")
        return self._dequantized[tensor], grid

    def dynamic_codes(self, tensor: str) -> tuple[str, str, str]:
        """Codes, scale and zero point of a tensor on the grid of this very batch."""
        if tensor not in self._dynamic:
            stem = f"{tensor}:dynamic"
            outputs = (f"{stem}/codes", f"{stem}/scale", f"{stem}/zero_point")
            self.node("DynamicQuantizeLinear", [self.as_float(tensor)], stem, outputs=outputs)
            self._dynamic[tensor] = outputs
        return self._dynamic[tensor]

    def quantize(self, tensor: str, name: str, grid: Grid) -> str:
        """Write the codes of a float tensor."""
        return self.node(
            "QuantizeLinear", [name, *self.grid(tensor, grid)], f"{tensor}:{type_of(grid)}"
        )

    def rounded(self, tensor: str, grid: Grid | None) -> str:
        """A tensor as float, rounded to a grid, or to half precision where there is none."""
        kind = "float16" if grid is None else type_of(grid)
        if tensor in self._marks and type(self._marks[tensor]) is type(grid):
            return self.as_float(tensor)
        if (tensor, kind) not in self._rounded:
            self._rounded[tensor, kind] = self._round(tensor, self.as_float(tensor), grid)
        return self._rounded[tensor, kind]

    def set_rounded(self, tensor: str, name: str, grid: Grid | None) -> None:
        """Round what a kernel writes as float; its readers need not round it again."""
        self.set_float(tensor, self._round(tensor, name, grid))
        self._marks[tensor] = grid

    def rounding(self, tensor: str) -> Grid | None:
        """The grid to which a tensor's values were rounded where they were written."""
        return self._marks.get(tensor)

    def pass_on(self, source: str, tensor: str) -> None:
        """Say that a tensor written as float holds values of another one, rounded as they are."""
        if source in self._marks:
            self._marks[tensor] = self._marks[source]
        if self._floats.get(source) in self._behind:
            self._behind.add(self._floats[tensor])

    def is_behind_codes(self, tensor: str) -> bool:
        """Whether a tensor as float was dequantized, so that its reader may be fused with that."""
        return self.as_float(tensor) in self._behind

    def shielded(self, tensor: str, channels: int | None = None) -> str:
        """A dequantized tensor as float, such that ONNX Runtime fuses nothing with it.

        It would give a layer that shall stay float an int8 kernel, and round its weights to one
        scale. A dequantize with the same scale for each channel is not fused; nor is a maximum
        of one tensor, which is a copy.
        """
        name = self.as_float(tensor)
        stem = f"{tensor}:shielded"
        if name not in self._behind:
            return name
        if (tensor, "shielded") in self._rounded:
            return self._rounded[tensor, "shielded"]
        if name in self._sources and channels is not None:
            source, codes, grid = self._sources[name]
            scale, zero_point = (
                self.constant(
                    f"{source}:{type_of(grid)}/{part}_of_{channels}", np.full(channels, one)
                )
                for part, one in (("scale", np.float32(grid.scale)), ("zero_point", zero_of(grid)))
            )
            made = self.node("DequantizeLinear", [codes, scale, zero_point], stem, axis=1)
        else:
            made = self.node("Max", [name], stem)
        self._rounded[tensor, "shielded"] = made
        return made

    def _dequantize(self, tensor: str, codes: str, grid: Grid, name: str) -> str:
        self._sources[name] = (tensor, codes, grid)
        self._behind.add(name)
        return self.node("DequantizeLinear", [codes, *self.grid(tensor, grid)], name)

    def _round(self, tensor: str, name: str, grid: Grid | None) -> str:
        if grid is None:
            half = self.node("Cast", [name], f"{tensor}:float16", to=TensorProto.FLOAT16)
            return self.node("Cast", [half], f"{tensor}:from_float16", to=TensorProto.FLOAT)
        codes = self.quantize(tensor, name, grid)
        return self._dequantize(tensor, codes, grid, f"{tensor}:from_{type_of(grid)}")

    def finish(self) -> PlanModel:
        """Give the graph as a model."""
        for tensor, declared in self._graph.outputs:
            self.node("Identity", [self.as_float(tensor)], declared.name)
        graph = helper.make_graph(
            self._nodes,
            "autoquant",
            self._graph.inputs,
            [declared for _, declared in self._graph.outputs],
        )
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        read = {name for node in self._nodes for name in read_by(node)}
        return plan_model(
            graph,
            {name: values for name, values in self._constants.items() if name in read},
            opset_imports=imports,
            ir_version=_IR_VERSION,
            producer_name="autoquant",
        )
