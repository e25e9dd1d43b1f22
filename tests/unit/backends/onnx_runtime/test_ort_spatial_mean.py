from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from autoquant.backends.onnxruntime.spatial_mean import replace_spatial_means

VALUES = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def mean_of(axes: list[int], keepdims: int) -> ModelProto:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="mean", keepdims=keepdims)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 5])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constant = numpy_helper.from_array(np.array(axes, np.int64), "axes")
    graph = helper.make_graph([node], "mean", [given], [result], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": VALUES})[0])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_over_all_of_space_becomes_a_global_pool(axes: list[int], keepdims: int) -> None:
    model = mean_of(axes, keepdims)
    before = run(model)
    origins = {"mean": "pool"}
    replace_spatial_means(model.graph, origins)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["GlobalAveragePool", "Flatten"][: 2 - keepdims]
    assert {origins[node.name] for node in model.graph.node} == {"pool"}
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axes", [[3], [1], [1, 2, 3]])
def test_other_means_stay(axes: list[int]) -> None:
    model = mean_of(axes, 1)
    replace_spatial_means(model.graph, {"mean": None})
    assert [node.op_type for node in model.graph.node] == ["ReduceMean"]
