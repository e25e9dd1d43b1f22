"""A plan, written as an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from onnx import NodeProto

from autoquant.backends.onnxruntime.float_graph import MOVING, FloatGraph, attributes_of
from autoquant.backends.onnxruntime.grids import type_of
from autoquant.backends.onnxruntime.plan_model import PlanModel
from autoquant.backends.onnxruntime.ranges import TensorGrids
from autoquant.backends.onnxruntime.rules import DYNAMIC, STATIC, WEIGHT_ONLY, Rule, by_group
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.onnxruntime.weights import Weights
from autoquant.backends.onnxruntime.writer import GraphWriter
from autoquant.backends.onnxruntime.writing import Writing
from autoquant.core.plan import Plan
from autoquant.core.precision import BY_GROUP, Scheme
from autoquant.core.sites import TRANSPOSED, Site
from autoquant.model.calibration.ranges.grid import Grid

RULES: Mapping[Scheme, Mapping[str, Rule]] = MappingProxyType(
    {
        Scheme.INT8: STATIC,
        Scheme.INT8_DYNAMIC: DYNAMIC,
        Scheme.INT8_WEIGHT_ONLY: WEIGHT_ONLY,
        **{scheme: by_group(scheme.group or 0) for scheme in BY_GROUP},
    }
)
_EMULATED = frozenset({Scheme.INT16, Scheme.FP16})
_TAKES_WEIGHT = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Nodes whose float weight ONNX Runtime rounds, unasked, where they read a dequantized tensor."""
_FREE = frozenset({"GlobalAveragePool"})
"""Nodes that run in int8 between int8 neighbours, though they are no site of their own."""


class PlanWriter:
    """Writes plans as ONNX graphs.

    Quantize and dequantize nodes stand where ONNX Runtime fuses them into int8 kernels; a tensor
    is on its grid only where such a kernel writes or reads it.
    """

    def __init__(
        self,
        graph: FloatGraph,
        units: Sequence[Unit],
        grids: TensorGrids,
        sites: Mapping[str, Site],
    ) -> None:
        self._graph = graph
        self._units = units
        self._grids = grids
        self._sites = sites
        self._weights = Weights(graph, grids.weight_bits)

    def write(self, plan: Plan) -> PlanModel:
        """Write a plan."""
        schemes = dict(plan.assignment)
        writing = Writing(
            self._graph, self._grids, self._weights, GraphWriter(self._graph), self._wanted(schemes)
        )
        for unit in self._units:
            self._write_unit(writing, unit, schemes)
        return writing.writer.finish()

    def _write_unit(self, writing: Writing, unit: Unit, schemes: Mapping[str, Scheme]) -> None:
        scheme = schemes[unit.site] if unit.site is not None else Scheme.FP32
        if unit.root.op_type in MOVING and _move_codes(writing, unit):
            return
        free = _is_free(unit) and unit.output in writing.wanted
        if free and writing.writer.written_codes(unit.root.input[0]) is not None:
            scheme = Scheme.INT8
        rule = self._rule(unit, scheme)
        if rule is not None and rule(writing, unit):
            return
        if unit.site is not None and scheme in _EMULATED:
            emulate(writing, unit, self._sites[unit.site], scheme)
        else:
            self._write_float(writing, unit)
        if unit.root.op_type in MOVING:
            for output in unit.root.output:
                writing.writer.pass_on(unit.root.input[0], output)

    def _rule(self, unit: Unit, scheme: Scheme) -> Rule | None:
        """How a unit gets the integer kernel of a scheme; None: not at all."""
        rule = RULES.get(scheme, {}).get(unit.root.op_type)
        if not unit.computes and not _is_free(unit):
            return None
        if rule is not None and scheme is Scheme.INT8:
            tensors = [*self._activations(unit), unit.output]
            if not all(self._grids.knows(item) for item in tensors):
                return None
        return rule

    def _activations(self, unit: Unit) -> list[str]:
        """What a unit reads as codes under static int8."""
        if unit.root.op_type in ("Conv", "Gemm", "MaxPool", "Relu", "Clip"):
            return [unit.root.input[0]]
        return [
            item
            for item in unit.root.input
            if unit.root.op_type != "MatMul" or item not in self._graph.initializers
        ]

    def _wanted(self, schemes: Mapping[str, Scheme]) -> frozenset[str]:
        """Tensors that an int8 kernel reads as codes, itself or after they were moved."""
        wanted: set[str] = set()
        for unit in reversed(self._units):
            scheme = schemes[unit.site] if unit.site is not None else Scheme.FP32
            moved = unit.root.op_type in MOVING or _is_free(unit)
            if moved and not wanted.isdisjoint(unit.root.output):
                wanted.add(unit.root.input[0])
            elif scheme is Scheme.INT8 and self._rule(unit, scheme) is not None:
                wanted.update(self._activations(unit))
        return frozenset(wanted)

    def _write_float(self, writing: Writing, unit: Unit) -> None:
        writer = writing.writer
        for node in unit.nodes:
            inputs = [writer.as_float(item) for item in node.input]
            data = [item for item in node.input if item and not writer.is_constant(item)]
            if node.op_type in _TAKES_WEIGHT:
                inputs[0] = writer.shielded(node.input[0], _channels(self._graph, node))
            elif node.op_type in STATIC and data and all(map(writer.is_behind_codes, data)):
                inputs[0] = writer.shielded(node.input[0])
            writer.copy(node, inputs)
            for output in node.output:
                writer.set_float(output)


def _channels(graph: FloatGraph, node: NodeProto) -> int | None:
    """How many channels a layer reads, from its weight; None: the weight is no constant."""
    weight = graph.initializers.get(node.input[1])
    if weight is None:
        return None
    attributes = attributes_of(node)
    if node.op_type == "Conv":
        return int(weight.shape[1] * attributes.get("group", 1))
    if node.op_type == "Gemm":
        return int(weight.shape[1 if attributes.get("transB", 0) else 0])
    return int(weight.shape[0])


def _is_free(unit: Unit) -> bool:
    return unit.site is None and unit.root.op_type in _FREE


def _move_codes(writing: Writing, unit: Unit) -> bool:
    """Move the codes of a tensor that a kernel wrote as codes."""
    root, writer = unit.root, writing.writer
    known = writer.written_codes(root.input[0])
    if known is None:
        return False
    codes, grid = known
    rest = [writer.as_float(item) for item in root.input[1:]]
    if root.op_type == "Pad":
        mode = attributes_of(root).get("mode", b"constant")
        filling = (
            writing.graph.initializers.get(root.input[2])
            if len(rest) > 1 and rest[1]
            else np.zeros(())
        )
        if mode == b"constant":
            if filling is None:
                return False
            level = np.clip(np.round(float(filling) / grid.scale) + grid.zero_point, 0, 255)
            filled = writer.constant(f"{root.name}/filling", np.array(level, type_of(grid)))
            rest = [rest[0], filled, *rest[2:]]
    outputs = [f"{item}:{type_of(grid)}" for item in root.output]
    writer.copy(root, [codes, *rest], outputs)
    for output, name in zip(root.output, outputs, strict=True):
        writer.set_codes(output, name, grid)
    return True


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
    bias = (
        writing.graph.initializers.get(root.input[2])
        if root.op_type in _WITH_BIAS and biases
        else None
    )
    layer = writing.static_layer(root, axis=_axis(unit, site), bias=bias, grid=grid)
    return layer if bias is not None else [*layer, *biases]


def _axis(unit: Unit, site: Site) -> int | None:
    """Dimension of the output channels that have scales of their own."""
    if site.kind in TRANSPOSED:
        return None
    transposed = attributes_of(unit.root).get("transB", 0)
    return 1 if unit.root.op_type in ("Gemm", "MatMul") and not transposed else 0
