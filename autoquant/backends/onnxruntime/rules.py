"""How each kind of node is written so that ONNX Runtime gives it an int8 kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from autoquant.backends.onnxruntime.float_graph import FloatGraph
from autoquant.backends.onnxruntime.grids import Array, Grid
from autoquant.backends.onnxruntime.ranges import TensorGrids
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.onnxruntime.weights import Weights
from autoquant.backends.onnxruntime.writer import CONTRIB, GraphWriter

_FLOAT_SUMS = 1
"""MatMulNBits' accuracy level that keeps activations in float; 4 would round them to int8."""


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """What the rules share while one plan is written.

    Attributes:
        graph: The float graph.
        grids: Of its tensors.
        weights: Of its layers.
        writer: Takes the nodes.
        wanted: Tensors that some int8 kernel reads as codes.
    """

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
            self.writer, root.name, root.input[1], axis=axis, bias=bias, input_scale=grid.scale
        )
        parts = [("weight", layer.codes, layer.scale, layer.zero_point)]
        if bias is not None:
            parts.append(("bias", layer.bias, layer.bias_scale, layer.bias_zero_point))
        axes = {"weight": axis, "bias": 0}
        return [
            self.writer.node(
                "DequantizeLinear",
                names,
                f"{root.name}/{part}:float",
                **({} if axis is None else {"axis": axes[part]}),
            )
            for part, *names in parts
        ]


Rule = Callable[[Writing, Unit], bool]
"""Writes a unit; False where it cannot, and then nothing is written of it."""


def limits_of(graph: FloatGraph, clip: NodeProto) -> tuple[float, float]:
    """Between which values a Relu or Clip keeps its output."""
    if clip.op_type == "Relu":
        return 0.0, float("inf")
    bounds = [graph.array(item) if item else None for item in clip.input[1:]]
    bounds += [None] * (2 - len(bounds))
    low, high = (None if item is None else float(item) for item in bounds)
    return -np.inf if low is None else low, np.inf if high is None else high


def static_convolution(writing: Writing, unit: Unit) -> bool:
    """Dequantize, Conv, Quantize: fused to QLinearConv."""
    root = unit.root
    if not writing.writer.is_constant(root.input[1]):
        return False
    source, grid = writing.dequantized(root.input[0])
    layer = writing.static_layer(root, axis=0, bias=_bias_of(writing, root), grid=grid)
    writing.write_codes(unit, writing.writer.copy(root, [source, *layer]))
    return True


def static_linear(writing: Writing, unit: Unit) -> bool:
    """QGemm where int8 is read from it (two dimensions only), else an int8 product to float."""
    root = unit.root
    if not _is_plain_linear(writing, root):
        return False
    if root.op_type == "Gemm" and unit.output in writing.wanted:
        source, grid = writing.dequantized(root.input[0])
        axis = _output_axis(root)
        bias = _bias_of(writing, root)
        if bias is None:  # without one, Gemm gets no int8 kernel
            bias = np.zeros(writing.graph.initializers[root.input[1]].dims[axis], np.float32)
        layer = writing.static_layer(root, axis=axis, bias=bias, grid=grid)
        writing.write_codes(unit, writing.writer.copy(root, [source, *layer]))
        return True
    codes, grid = writing.codes(root.input[0])
    scale, zero_point = writing.writer.grid(root.input[0], grid)
    _write_product(writing, unit, codes, scale, zero_point)
    return True


def dynamic_linear(writing: Writing, unit: Unit) -> bool:
    """DynamicQuantizeLinear and an int8 product to float: fused to DynamicQuantizeMatMul."""
    if not _is_plain_linear(writing, unit.root):
        return False
    codes, scale, zero_point = writing.writer.dynamic_codes(unit.root.input[0])
    _write_product(writing, unit, codes, scale, zero_point)
    return True


def weight_only_linear(writing: Writing, unit: Unit) -> bool:
    """MatMulNBits of 8 bits, whose activations and sums stay in float."""
    root, writer = unit.root, writing.writer
    if not _is_plain_linear(writing, root):
        return False
    axis = _output_axis(root)
    codes, scales = writing.weights.blocks(writer, root.name, root.input[1], axis=axis)
    shape = writing.graph.initializers[root.input[1]].dims
    product = writer.node(
        "MatMulNBits",
        [writer.as_float(root.input[0]), codes, scales, "", "", _float_bias(writing, unit)],
        root.name,
        domain=CONTRIB,
        K=shape[1 - axis],
        N=shape[axis],
        bits=8,
        block_size=writing.weights.block,
        accuracy_level=_FLOAT_SUMS,
    )
    writing.write_float(unit, product)
    return True


def weight_only_embedding(writing: Writing, unit: Unit) -> bool:
    """Rows of an int8 table, multiplied by their scales."""
    root, writer = unit.root, writing.writer
    if not writer.is_constant(root.input[0]) or _attributes(root).get("axis", 0) != 0:
        return False
    table, scales = writing.weights.rows(writer, root.name, root.input[0])
    indices = writer.as_float(root.input[1])
    rows = writer.node("Gather", [table, indices], root.name)
    scale = writer.node("Gather", [scales, indices], f"{root.name}:scale")
    floats = writer.node("Cast", [rows], f"{root.name}:cast", to=1)
    writing.write_float(unit, writer.node("Mul", [floats, scale], f"{root.name}:rows"))
    return True


def static_product(writing: Writing, unit: Unit) -> bool:
    """A product of two activations: QLinearMatMul, or an int8 product to float."""
    root, writer = unit.root, writing.writer
    if unit.output in writing.wanted:
        inputs = [writing.dequantized(item)[0] for item in root.input]
        writing.write_codes(unit, writer.copy(root, inputs))
        return True
    (left, left_grid), (right, right_grid) = map(writing.codes, root.input)
    left_scale, left_zero = writer.grid(root.input[0], left_grid)
    right_scale, right_zero = writer.grid(root.input[1], right_grid)
    inputs = [left, right, left_scale, right_scale, left_zero, right_zero]
    product = writer.node("MatMulIntegerToFloat", inputs, root.name, domain=CONTRIB)
    writing.write_float(unit, product)
    return True


def static_elementwise(writing: Writing, unit: Unit) -> bool:
    """Dequantize all inputs, the node, Quantize: fused to the QLinear node of its name."""
    inputs = [writing.dequantized(item)[0] for item in unit.root.input]
    writing.write_codes(unit, writing.writer.copy(unit.root, inputs))
    return True


def static_max_pool(writing: Writing, unit: Unit) -> bool:
    """MaxPool of the codes themselves, which keep their grid."""
    if len(unit.root.output) > 1:
        return False
    codes, grid = writing.codes(unit.root.input[0])
    pooled = writing.writer.copy(unit.root, [codes], [f"{unit.root.name}:{grid.dtype}"])
    writing.writer.set_codes(unit.root.output[0], pooled, grid)
    return True


def static_clip(writing: Writing, unit: Unit) -> bool:
    """Clip the codes themselves, which keep their grid."""
    root = unit.root
    if any(item and not writing.writer.is_constant(item) for item in root.input[1:]):
        return False
    codes, grid = writing.codes(root.input[0])
    bounds = [
        np.clip(round(limit / grid.scale) + grid.zero_point, 0, 255) if np.isfinite(limit) else end
        for limit, end in zip(limits_of(writing.graph, root), (0, 255), strict=True)
    ]
    names = [
        writing.writer.constant(f"{root.name}/{end}", np.array(bound, grid.dtype))
        for end, bound in zip(("low", "high"), bounds, strict=True)
    ]
    clipped = writing.writer.node(
        "Clip", [codes, *names], root.name, outputs=[f"{root.name}:{grid.dtype}"]
    )
    writing.writer.set_codes(root.output[0], clipped, grid)
    return True


def dynamic_lstm(writing: Writing, unit: Unit) -> bool:
    """DynamicQuantizeLSTM: int8 weights, inputs and states on the grid of each step's batch."""
    root, writer = unit.root, writing.writer
    weights = [writing.graph.array(item) for item in root.input[1:3]]
    attributes = _attributes(root)
    if any(item is None for item in weights) or attributes.pop("layout", 0):
        return False
    names: list[list[str]] = []
    for part, weight in zip(("input", "state"), weights, strict=True):
        if weight is None:
            return False
        scale = np.maximum(np.abs(weight).max(axis=2) / 127.0, 1e-30).astype(np.float32)
        codes = np.clip(np.rint(weight / scale[..., None]), -127, 127).astype(np.int8)
        stem = f"{root.name}/{part}"
        names.append(
            [
                writer.constant(f"{stem}_codes", codes.transpose(0, 2, 1)),
                writer.constant(f"{stem}_scale", scale),
                writer.constant(f"{stem}_zero_point", np.zeros(scale.shape, np.int8)),
            ]
        )
    rest = [writer.as_float(item) for item in root.input[3:]]
    rest += [""] * (5 - len(rest))
    (w, w_scale, w_zero), (r, r_scale, r_zero) = names
    source = writer.as_float(root.input[0])
    inputs = [source, w, r, *rest, w_scale, w_zero, r_scale, r_zero]
    writer.node(
        "DynamicQuantizeLSTM",
        inputs,
        root.name,
        outputs=root.output,
        domain=CONTRIB,
        **attributes,
    )
    for output in root.output:
        writer.set_float(output)
    return True


STATIC: Mapping[str, Rule] = {
    "Conv": static_convolution,
    "Gemm": static_linear,
    "MatMul": lambda writing, unit: (
        static_linear(writing, unit)
        if writing.writer.is_constant(unit.root.input[1])
        else static_product(writing, unit)
    ),
    "Add": static_elementwise,
    "Mul": static_elementwise,
    "Concat": static_elementwise,
    "AveragePool": static_elementwise,
    "GlobalAveragePool": static_elementwise,
    "Sigmoid": static_elementwise,
    "LeakyRelu": static_elementwise,
    "Softmax": static_elementwise,
    "MaxPool": static_max_pool,
    "Relu": static_clip,
    "Clip": static_clip,
}
DYNAMIC: Mapping[str, Rule] = {
    "Gemm": dynamic_linear,
    "MatMul": dynamic_linear,
    "LSTM": dynamic_lstm,
}
WEIGHT_ONLY: Mapping[str, Rule] = {
    "Gemm": weight_only_linear,
    "MatMul": weight_only_linear,
    "Gather": weight_only_embedding,
}


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _is_plain_linear(writing: Writing, root: NodeProto) -> bool:
    """Whether a node is x W + b with a constant matrix W."""
    weight = writing.graph.initializers.get(root.input[1])
    if weight is None or len(weight.dims) != 2:
        return False
    bias = writing.graph.initializers.get(root.input[2]) if len(root.input) > 2 else None
    if len(root.input) > 2 and (bias is None or len(bias.dims) != 1):
        return False
    given = _attributes(root)
    return not given.get("transA", 0) and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0


def _output_axis(root: NodeProto) -> int:
    return 0 if _attributes(root).get("transB", 0) else 1


def _bias_of(writing: Writing, root: NodeProto) -> Array | None:
    return writing.graph.array(root.input[2]) if len(root.input) > 2 else None


def _write_product(
    writing: Writing, unit: Unit, codes: str, scale: str, zero_point: str
) -> None:
    """An int8 product whose sums are written as float, bias added."""
    root, writer = unit.root, writing.writer
    layer = writing.weights.transposed(writer, root.name, root.input[1], axis=_output_axis(root))
    product = writer.node(
        "MatMulIntegerToFloat",
        [codes, layer.codes, scale, layer.scale, zero_point, layer.zero_point]
        + ([bias] if (bias := _float_bias(writing, unit)) else []),
        root.name,
        domain=CONTRIB,
    )
    writing.write_float(unit, product)


def _float_bias(writing: Writing, unit: Unit) -> str:
    """Name of a linear layer's bias, empty where it has none."""
    if unit.bias is not None:
        name = next(item for item in unit.bias.input if writing.writer.is_constant(item))
        return writing.writer.as_float(name)
    return writing.writer.as_float(unit.root.input[2]) if len(unit.root.input) > 2 else ""
