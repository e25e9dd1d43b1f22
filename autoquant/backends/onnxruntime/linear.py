"""Linear layers of one activation: static, dynamic and weight-only."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from autoquant.backends.onnxruntime.float_graph import attributes_of
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.onnxruntime.weights import BLOCK, Names
from autoquant.backends.onnxruntime.writer import CONTRIB
from autoquant.backends.onnxruntime.writing import Writing

_FLOAT_SUMS = 1
"""MatMulNBits' accuracy level that keeps activations in float; 4 would round them to int8."""


def static_linear(writing: Writing, unit: Unit) -> bool:
    """QGemm where int8 is read from it (two dimensions only), else an int8 product to float."""
    root = unit.root
    if not _is_plain_linear(writing, root):
        return False
    if root.op_type == "Gemm" and unit.output in writing.wanted:
        source, grid = writing.dequantized(root.input[0])
        axis = _output_axis(root)
        bias = writing.bias(root)
        if bias is None:  # without one, Gemm gets no int8 kernel
            bias = np.zeros(writing.graph.initializers[root.input[1]].shape[axis], np.float32)
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
    root = unit.root
    if not _is_plain_linear(writing, root):
        return False
    blocks = writing.weights.blocks(
        writing.writer, root.name, root.input[1], axis=_output_axis(root)
    )
    _write_blocks(writing, unit, blocks, bits=8, size=BLOCK)
    return True


def grouped_linear(size: int, writing: Writing, unit: Unit) -> bool:
    """MatMulNBits of 4 bits, with a scale for each group of so many weights."""
    root = unit.root
    if not _is_plain_linear(writing, root):
        return False
    blocks = writing.weights.groups(
        writing.writer, root.name, root.input[1], axis=_output_axis(root), size=size
    )
    _write_blocks(writing, unit, blocks, bits=4, size=size)
    return True


def _write_blocks(writing: Writing, unit: Unit, blocks: Names, *, bits: int, size: int) -> None:
    root, axis = unit.root, _output_axis(unit.root)
    shape = writing.graph.initializers[root.input[1]].shape
    source = writing.writer.as_float(root.input[0])
    product = writing.writer.node(
        "MatMulNBits",
        [source, *blocks, "", "", _float_bias(writing, unit)],
        root.name,
        domain=CONTRIB,
        K=shape[1 - axis],
        N=shape[axis],
        bits=bits,
        block_size=size,
        accuracy_level=_FLOAT_SUMS,
    )
    writing.write_float(unit, product)


def _is_plain_linear(writing: Writing, root: NodeProto) -> bool:
    """Whether a node is x W + b with a constant matrix W."""
    weight = writing.graph.initializers.get(root.input[1])
    if weight is None or weight.ndim != 2:
        return False
    bias = writing.graph.initializers.get(root.input[2]) if len(root.input) > 2 else None
    if len(root.input) > 2 and (bias is None or bias.ndim != 1):
        return False
    given = attributes_of(root)
    return not given.get("transA", 0) and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0


def _output_axis(root: NodeProto) -> int:
    return 0 if attributes_of(root).get("transB", 0) else 1


def _write_product(writing: Writing, unit: Unit, codes: str, scale: str, zero_point: str) -> None:
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
