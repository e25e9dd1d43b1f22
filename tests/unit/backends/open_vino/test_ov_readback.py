from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("openvino", reason="needs the extra openvino")

import openvino as ov
from openvino import opset13 as ops

from autoquant.backends.openvino.readback import depends_on_constants

DEEP = 3000


def deep(node: ov.Node) -> ov.Node:
    for _ in range(DEEP):
        node = ops.relu(node)
    return node


def constant() -> ov.Node:
    found = ops.constant(np.ones(2, np.float32))
    found.get_rt_info()["layerType"] = "Const"
    return found


def test_a_graph_deeper_than_python_calls_is_followed_to_its_ends() -> None:
    given = ops.parameter([2], np.float32)
    assert depends_on_constants(deep(constant()))
    assert not depends_on_constants(deep(given))
    assert not depends_on_constants(ops.add(deep(given), constant()))
