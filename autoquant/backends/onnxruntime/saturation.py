"""Whether this CPU's int8 products overflow."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

_DEPTH = 64


@cache
def saturates() -> bool:
    """Whether products of u8 and s8 overflow their 16-bit intermediate sums on this CPU.

    Without VNNI, x86 kernels add pairs of products in 16 bits. Found out by running the kernel on
    the largest values, not from CPU flags.
    """
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    inputs = [
        helper.make_tensor_value_info("a", TensorProto.UINT8, [8, _DEPTH]),
        helper.make_tensor_value_info("b", TensorProto.INT8, [_DEPTH, 16]),
    ]
    outputs = [helper.make_tensor_value_info("c", TensorProto.INT32, [8, 16])]
    model = helper.make_model(
        helper.make_graph([node], "products", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = {
        "a": np.full((8, _DEPTH), 255, np.uint8),
        "b": np.full((_DEPTH, 16), 127, np.int8),
    }
    (sums,) = session.run(None, values)
    return bool((np.asarray(sums) != 255 * 127 * _DEPTH).any())
