from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from autoquant.backends.onnxruntime.profile import attribute
from autoquant.backends.onnxruntime.readback import Dump, source_name
from autoquant.backends.onnxruntime.units import Unit
from autoquant.core.precision import Scheme


def dump_of(*nodes: NodeProto) -> ModelProto:
    """A dump as ONNX Runtime writes it; a constant `zero` of each type."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    kinds = {"zero": np.uint8, "wide": np.int16, "table": np.int8}
    constants = [numpy_helper.from_array(np.zeros((), kind), name) for name, kind in kinds.items()]
    return helper.make_model(helper.make_graph(list(nodes), "dump", [given], [], constants))


def node(op_type: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op_type, inputs, [output], name=output, **attributes)


def unit(op_type: str = "Conv", name: str = "a/Conv") -> Unit:
    return Unit((node(op_type, ["x"], name),), ("a",), computes=True)


QUANTIZE = node("QuantizeLinear", ["x", "scale", "zero"], "q")
DYNAMIC = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="q")
FOUR_BITS = node("MatMulNBits", ["x"], "a/Conv", bits=4, block_size=64)
FOUR_BIT_ROWS = node("GatherBlockQuantized", ["t", "x"], "a/Conv", block_size=32)
WORD = [
    node("QuantizeLinear", ["x", "scale", "wide"], "q"),
    node("DequantizeLinear", ["q", "scale", "wide"], "f"),
]
HALF = [
    node("Cast", ["x"], "h", to=TensorProto.FLOAT16),
    node("Cast", ["h"], "f", to=TensorProto.FLOAT),
]


@pytest.mark.parametrize(
    ("nodes", "schemes"),
    [
        ([QUANTIZE, node("QLinearConv", ["q"], "a/Conv_token_12")], {Scheme.INT8}),
        ([QUANTIZE, node("MatMulIntegerToFloat", ["q"], "a/Conv")], {Scheme.INT8}),
        ([DYNAMIC, node("MatMulIntegerToFloat", ["q"], "a/Conv")], {Scheme.INT8_DYNAMIC}),
        ([node("DynamicQuantizeMatMul", ["x"], "a/Conv")], {Scheme.INT8_DYNAMIC}),
        ([QUANTIZE, node("MaxPool", ["q"], "a/Conv")], {Scheme.INT8}),
        ([node("MatMulNBits", ["x"], "a/Conv", bits=8)], {Scheme.INT8_WEIGHT_ONLY}),
        ([node("MatMulNBits", ["x"], "a/Conv", bits=8, accuracy_level=4)], set()),
        ([node("MatMulNBits", ["x"], "a/Conv", bits=4)], set()),
        ([node("MatMulNBits", ["x"], "a/Conv", bits=4, block_size=16)], set()),
        ([FOUR_BITS], {Scheme.INT4_WEIGHT_ONLY_64}),
        ([FOUR_BIT_ROWS], {Scheme.INT4_WEIGHT_ONLY}),
        ([node("Gather", ["table", "x"], "a/Conv")], {Scheme.INT8_WEIGHT_ONLY}),
        ([node("Conv", ["x"], "a/Conv_nchwc")], {Scheme.FP32}),
        ([*WORD, node("Conv", ["f"], "a/Conv")], {Scheme.FP32, Scheme.INT16}),
        ([*HALF, node("Conv", ["f"], "a/Conv")], {Scheme.FP32, Scheme.FP16}),
        ([], {Scheme.FP32}),
    ],
)
def test_kernels_say_which_schemes_they_honour(nodes: list[NodeProto], schemes: set) -> None:
    assert Dump(dump_of(*nodes)).runs(unit()) == schemes


def test_kernels_of_two_schemes_at_one_unit_honour_none() -> None:
    first = node("QLinearConv", ["q"], "a/Conv")
    second = node("DynamicQuantizeMatMul", ["x"], "a/Conv_token_1")
    assert not Dump(dump_of(QUANTIZE, first, second)).runs(unit())


@pytest.mark.parametrize(
    "name", ["fused a/Conv", "a/Conv_nchwc", "a/Conv_token_3", "a/Conv_token_3_nchwc", "a/Conv"]
)
def test_names_lose_what_the_optimizer_added(name: str) -> None:
    assert source_name(name) == "a/Conv"


def test_conversions_between_two_sites_are_their_boundary() -> None:
    nodes = [
        node("QLinearConv", ["x"], "a/Conv_token_1"),
        node("Transpose", ["a/Conv_token_1"], "Transpose"),
        node("DequantizeLinear", ["Transpose", "scale", "zero"], "a/Conv:float"),
        node("Gemm", ["a/Conv:float"], "b/Gemm"),
        node("MatMul", ["a/Conv:float"], "c/MatMul"),
        node("Cast", ["b/Gemm"], "output", to=TensorProto.FLOAT16),
    ]
    units = [
        unit(),
        Unit((node("Gemm", ["x"], "b/Gemm"),), ("b",), computes=True),
        Unit((node("MatMul", ["x"], "c/MatMul"),), ("c",), computes=True),
    ]
    times = {item.name: 1.0 for item in nodes}
    parts = attribute(dump_of(*nodes), times, units, {})
    assert parts.ops == {"a": 1.0, "b": 2.0, "c": 1.0}
    assert parts.edges == {("a", "b"): 1.0, ("a", "c"): 1.0}
    assert parts.rest == 0.0
