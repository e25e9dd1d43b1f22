"""How each kind of node is written so that ONNX Runtime gives it an int8 kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from autoquant.backends.byte_codes import byte_codes
from autoquant.backends.onnxruntime.float_graph import attributes_of
from autoquant.backends.onnxruntime.grids import type_of
from autoquant.backends.onnxruntime.linear import (
    dynamic_linear,
    grouped_linear,
    static_linear,
    weight_only_linear,
)
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.onnxruntime.writer import CONTRIB
from autoquant.backends.onnxruntime.writing import Writing, limits_of


def dynamic_lstm(writing: Writing, unit: Unit) -> bool:
    """DynamicQuantizeLSTM: int8 weights, inputs and states on the grid of each step's batch."""
    root, writer = unit.root, writing.writer
    weights = [writing.graph.initializers.get(item) for item in root.input[1:3]]
    attributes = attributes_of(root)
    if any(item is None for item in weights) or attributes.pop("layout", 0):
        return False
    names: list[list[str]] = []
    for part, weight in zip(("input", "state"), weights, strict=True):
        if weight is None:
            return False
        codes, scale = byte_codes(weight, (0, 1), writing.weights.bits)
        stem = f"{root.name}/{part}"
        names.append(
            [
                writer.constant(f"{stem}_codes", codes.transpose(0, 2, 1)),
                writer.constant(f"{stem}_scale", scale[..., 0]),
                writer.constant(f"{stem}_zero_point", np.zeros(scale.shape[:2], np.int8)),
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


Rule = Callable[[Writing, Unit], bool]
"""Writes a unit; False where it cannot, and then nothing is written of it."""


def static_convolution(writing: Writing, unit: Unit) -> bool:
    """Dequantize, Conv, Quantize: fused to QLinearConv."""
    root = unit.root
    if not writing.writer.is_constant(root.input[1]):
        return False
    source, grid = writing.dequantized(root.input[0])
    layer = writing.static_layer(root, axis=0, bias=writing.bias(root), grid=grid)
    writing.write_codes(unit, writing.writer.copy(root, [source, *layer]))
    return True


def weight_only_embedding(writing: Writing, unit: Unit) -> bool:
    """Rows of an int8 table, multiplied by their scales."""
    root, writer = unit.root, writing.writer
    if not writer.is_constant(root.input[0]) or attributes_of(root).get("axis", 0) != 0:
        return False
    table, scales = writing.weights.rows(writer, root.name, root.input[0])
    indices = writer.as_float(root.input[1])
    rows = writer.node("Gather", [table, indices], root.name)
    scale = writer.node("Gather", [scales, indices], f"{root.name}:scale")
    floats = writer.node("Cast", [rows], f"{root.name}:cast", to=1)
    writing.write_float(unit, writer.node("Mul", [floats, scale], f"{root.name}:rows"))
    return True


def grouped_embedding(size: int, writing: Writing, unit: Unit) -> bool:
    """GatherBlockQuantized: rows of an int4 table, scaled group by group."""
    root, writer = unit.root, writing.writer
    if not writer.is_constant(root.input[0]) or attributes_of(root).get("axis", 0) != 0:
        return False
    table, scales, zeros = writing.weights.grouped_rows(writer, root.name, root.input[0], size=size)
    rows = writer.node(
        "GatherBlockQuantized",
        [table, writer.as_float(root.input[1]), scales, zeros],
        root.name,
        domain=CONTRIB,
        block_size=size,
        gather_axis=0,
        quantize_axis=1,
    )
    writing.write_float(unit, rows)
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
    pooled = writing.writer.copy(unit.root, [codes], [f"{unit.root.name}:{type_of(grid)}"])
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
        writing.writer.constant(f"{root.name}/{end}", np.array(bound, type_of(grid)))
        for end, bound in zip(("low", "high"), bounds, strict=True)
    ]
    clipped = writing.writer.node(
        "Clip", [codes, *names], root.name, outputs=[f"{root.name}:{type_of(grid)}"]
    )
    writing.writer.set_codes(root.output[0], clipped, grid)
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


def by_group(size: int) -> Mapping[str, Rule]:
    """The rules of int4 weights with a scale for each group."""
    linear = partial(grouped_linear, size)
    return {"Gemm": linear, "MatMul": linear, "Gather": partial(grouped_embedding, size)}
