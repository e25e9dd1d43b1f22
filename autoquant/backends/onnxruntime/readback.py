"""What each site really runs, read from the optimized model that ONNX Runtime wrote."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from onnx import ModelProto, NodeProto, TensorProto

from autoquant.backends.onnxruntime.float_graph import MOVING, attributes_of
from autoquant.backends.onnxruntime.units import Unit
from autoquant.core.precision import BY_GROUP, Precision, Scheme

_ADDED = re.compile(r"(_nchwc|_token_\d+|/duplicated|/MatmulTransposeFusion/)+$")
_FUSED = "fused "
_INTEGER = frozenset(
    {
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMatMul",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
    }
)
_INTEGER_SCHEMES = frozenset({Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHT_ONLY, *BY_GROUP})
_DYNAMIC = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
_MOVING = MOVING | {"ReorderInput", "ReorderOutput"}
_KEEPING = _MOVING | {"Clip", "Concat", "MaxPool", "NhwcMaxPool"}
"""Nodes whose output has the type of their input."""

_CONVERTING = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "DynamicQuantizeLinear"})
_INT8_TYPES = frozenset({TensorProto.UINT8, TensorProto.INT8})
_INT16_TYPES = frozenset({TensorProto.INT16, TensorProto.UINT16})
_DEFAULT_BLOCK = 128
_BY_SIZE: Mapping[tuple[int, int], Scheme] = {
    (scheme.weight.bits, scheme.group or 0): scheme for scheme in BY_GROUP
}
"""By bits of a weight and weights that share a scale."""


class Dump:
    """An optimized model, by the names of the nodes that it was made of."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self._writer = {name: node for node in self.graph.node for name in node.output}
        self._types = _types(model)
        self._named: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in dict.fromkeys(map(source_name, (node.name, *node.output))):
                self._named[name].append(node)

    def runs(self, unit: Unit) -> frozenset[Scheme]:
        """The schemes that what a unit runs would honour; none where kernels of several mix.

        A unit that became part of another unit's float kernel runs in fp32. A float kernel whose
        inputs are rounded honours fp32, and the scheme that they are rounded for. ONNX Runtime
        moves the rounding of a reader across a max pool, of which nothing changes: the largest
        code is the code of the largest value.
        """
        schemes = {self._scheme(node) for node in self._computing(unit)}
        known = frozenset(item for item in schemes if item is not None)
        integers = known & _INTEGER_SCHEMES
        if integers or None in schemes:
            # float nodes beside an integer kernel add its bias, or clip
            if len(integers) != 1 or None in schemes:
                return frozenset()
            is_max_pool = unit.root.op_type == "MaxPool"
            return integers | {Scheme.FP32} if is_max_pool else integers
        rounded = known - {Scheme.FP32}
        return frozenset({Scheme.FP32}) | (rounded if len(rounded) == 1 else frozenset())

    def kernel(self, unit: Unit) -> str:
        """The type of the node that computes a unit; an integer one, where there are several."""
        types = [node.op_type for node in self._computing(unit)]
        integers = [item for item in types if item in _INTEGER | _DYNAMIC]
        return next(iter(integers or types), "")

    def _computing(self, unit: Unit) -> list[NodeProto]:
        found = [node for item in unit.nodes for node in self._named.get(item.name, ())]
        return [node for node in found if not self._only_moves(node)]

    def _only_moves(self, node: NodeProto) -> bool:
        """Whether a node converts or moves values, which no scheme is about."""
        if node.op_type == "Gather":
            return node.input[0] in self._writer
        return node.op_type in _CONVERTING or node.op_type in _MOVING

    def _scheme(self, node: NodeProto) -> Scheme | None:
        attributes = attributes_of(node)
        if node.op_type in _DYNAMIC:
            return Scheme.INT8_DYNAMIC
        if node.op_type in _INTEGER:
            source = self._writer.get(node.input[0])
            dynamic = source is not None and source.op_type == "DynamicQuantizeLinear"
            return Scheme.INT8_DYNAMIC if dynamic else Scheme.INT8
        if node.op_type == "MatMulNBits":
            keeps_floats = attributes.get("accuracy_level", 0) in (0, 1)
            if not keeps_floats:
                return None
            if attributes.get("bits") == Precision.INT8.bits:
                return Scheme.INT8_WEIGHT_ONLY
            return _BY_SIZE.get((attributes.get("bits", 4), attributes.get("block_size", 0)))
        if node.op_type == "GatherBlockQuantized":
            bits = attributes.get("bits", Precision.INT4.bits)
            return _BY_SIZE.get((bits, attributes.get("block_size", _DEFAULT_BLOCK)))
        kind = self._types.get(node.input[0]) if node.input else None
        if node.op_type == "Gather" and node.input[0] not in self._writer:
            return Scheme.INT8_WEIGHT_ONLY if kind in _INT8_TYPES else Scheme.FP32
        return Scheme.INT8 if kind in _INT8_TYPES else self._rounding(node)

    def _rounding(self, node: NodeProto) -> Scheme:
        """To what the tensor that a float node reads first was rounded."""
        source = self._writer.get(node.input[0]) if node.input else None
        while source is not None and source.op_type in _KEEPING:
            source = self._writer.get(source.input[0])
        kind = self._types.get(source.input[0]) if source is not None else None
        if source is None:
            return Scheme.FP32
        if source.op_type == "DequantizeLinear" and kind in _INT16_TYPES:
            return Scheme.INT16
        if source.op_type == "Cast" and kind == TensorProto.FLOAT16:
            return Scheme.FP16
        return Scheme.FP32


def source_name(name: str) -> str:
    """The name that a node, or its output, had before ONNX Runtime optimized the graph.

    >>> source_name("fused head/Gemm"), source_name("stem/Conv_token_12_nchwc")
    ('head/Gemm', 'stem/Conv')
    """
    return _ADDED.sub("", name.removeprefix(_FUSED))


def read_schemes(
    dump: Dump, units: Iterable[Unit], names: Iterable[str]
) -> Mapping[str, frozenset[Scheme]]:
    """By site, the schemes that what runs of it would honour."""
    seen: dict[str, list[frozenset[Scheme]]] = {name: [] for name in names}
    for unit in units:
        if unit.computes:
            runs = dump.runs(unit)
            for site in unit.sites:
                seen[site].append(runs)
    return {
        name: frozenset.intersection(*found) if found else frozenset()
        for name, found in seen.items()
    }


def read_kernels(dump: Dump, units: Iterable[Unit]) -> Mapping[str, str]:
    """By site, the type of the first node that computes it."""
    found: dict[str, str] = {}
    for unit in units:
        if unit.computes:
            kernel = dump.kernel(unit)
            for site in unit.sites:
                found.setdefault(site, kernel)
    return found


def _types(model: ModelProto) -> dict[str, int]:
    """Element types of all tensors, where they follow from the nodes."""
    graph = model.graph
    found = {item.name: item.data_type for item in graph.initializer}
    for item in (*graph.input, *graph.value_info, *graph.output):
        found[item.name] = item.type.tensor_type.elem_type
    for node in graph.node:
        kind = _output_type(node, found)
        for name in node.output:
            found.setdefault(name, kind)
    return found


def _output_type(node: NodeProto, known: Mapping[str, int]) -> int:
    if node.op_type == "Cast":
        return int(attributes_of(node)["to"])
    if node.op_type == "QuantizeLinear":
        has_zero = len(node.input) > 2 and node.input[2]
        return known.get(node.input[2], TensorProto.UINT8) if has_zero else TensorProto.UINT8
    if node.op_type.startswith("QLinear"):
        return TensorProto.UINT8
    if node.op_type == "QGemm":
        return known.get(node.input[-1], TensorProto.FLOAT) if len(node.input) > 8 else 1
    if node.op_type in _KEEPING and node.input:
        return known.get(node.input[0], TensorProto.FLOAT)
    return int(TensorProto.FLOAT)
