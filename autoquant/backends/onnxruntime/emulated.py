"""Schemes without a kernel here: computed in fp32 on values rounded as the scheme rounds them."""

from __future__ import annotations

from autoquant.backends.onnxruntime.grids import Grid
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.onnxruntime.writing import Writing
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind, Site

_TRANSPOSED = frozenset({OpKind.CONV_TRANSPOSE1D, OpKind.CONV_TRANSPOSE2D, OpKind.CONV_TRANSPOSE3D})
_WITH_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def emulate(writing: Writing, unit: Unit, site: Site, scheme: Scheme) -> None:
    """Write a unit in float between roundings.

    Tensors that the site reads, its weight and its output are rounded: to int16 (the weight to
    int8, a convolution's or Gemm's bias to int32 as the sums of integer kernels need it), or to
    half precision (the bias not). Sums stay in fp32.
    """
    root, writer = unit.root, writing.writer

    def grid_of(tensor: str) -> Grid | None:
        return writing.grids.int16(tensor) if scheme is Scheme.INT16 else None

    def read(tensor: str) -> str:
        if not tensor or writer.is_constant(tensor) or not writing.grids.knows(tensor):
            return writer.as_float(tensor)
        return writer.rounded(tensor, grid_of(tensor))

    inputs = [read(item) for item in root.input]
    if unit.computes and site.kind.is_weighted and writer.is_constant(root.input[1]):
        grid = writer.rounding(root.input[0]) or grid_of(root.input[0])
        inputs[1:] = _weights(writing, unit, site, grid)
    raw = writer.copy(root, inputs)
    if unit.bias is not None:
        constants = [item for item in unit.bias.input if writer.is_constant(item)]
        raw = writer.copy(unit.bias, [raw, *map(writer.as_float, constants)])
    raw = writing.clipped(unit, raw)
    for other in root.output[1:]:
        writer.set_float(other)
    if unit.computes and unit.output in writing.graph.tensors and writing.grids.knows(unit.output):
        writer.set_rounded(unit.output, raw, grid_of(unit.output))
    else:
        writer.set_float(unit.output, raw)


def _weights(writing: Writing, unit: Unit, site: Site, grid: Grid | None) -> list[str]:
    """Weight and bias of a layer, rounded."""
    root, weights, writer = unit.root, writing.weights, writing.writer
    biases = [writer.as_float(item) for item in root.input[2:]]
    if grid is None:
        return [weights.as_half_floats(writer, root.name, root.input[1]), *biases]
    if root.op_type == "MatMul":  # a dequantized weight would get the kernel of int8_weight_only
        return [weights.as_int8_floats(writer, root.name, root.input[1], axis=1), *biases]
    bias = writing.graph.array(root.input[2]) if root.op_type in _WITH_BIAS and biases else None
    layer = writing.static_layer(root, axis=_axis(unit, site), bias=bias, grid=grid)
    return layer if bias is not None else [*layer, *biases]


def _axis(unit: Unit, site: Site) -> int | None:
    """Dimension of the output channels that have scales of their own."""
    if site.kind in _TRANSPOSED:
        return None
    transposed = next((item.i for item in unit.root.attribute if item.name == "transB"), 0)
    return 1 if unit.root.op_type in ("Gemm", "MatMul") and not transposed else 0
