from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the extra onnxruntime")

import onnxruntime
from onnx import TensorProto, helper

from autoquant.backends.onnxruntime.plan_model import PlanModel, plan_model
from autoquant.backends.onnxruntime.sessions import open_session

WEIGHT = np.random.default_rng(0).standard_normal((32, 16), dtype=np.float32)
BIAS = np.arange(16, dtype=np.float32)
INPUT = np.ones((3, 32), np.float32)


@pytest.fixture
def model() -> PlanModel:
    """A layer whose weight is large enough to stand beside the graph, and whose bias is not."""
    return plan_model(
        helper.make_graph(
            [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        ),
        {"weight": WEIGHT, "bias": BIAS},
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )


def test_a_session_reads_constants_that_stand_beside_the_graph(model: PlanModel) -> None:
    assert model.constants["weight"] is WEIGHT
    assert len(model.graph) < WEIGHT.nbytes
    (found,) = open_session(model, 1).run({"x": INPUT})
    assert np.allclose(found, INPUT @ WEIGHT + BIAS, atol=1e-5)


@pytest.mark.parametrize("limit", [0, WEIGHT.nbytes], ids=["beside the file", "within it"])
def test_a_file_holds_its_constants_or_names_where_they_are(
    model: PlanModel, limit: int, tmp_path: Path
) -> None:
    path = tmp_path / "layer.onnx"
    model.write(path, {"autoquant": "a plan"}, limit=limit)
    beside = tmp_path / "layer.onnx.data"
    assert beside.exists() == (limit == 0)
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {"x": INPUT})
    assert np.allclose(found, INPUT @ WEIGHT + BIAS, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["autoquant"] == "a plan"


def test_constants_that_are_not_contiguous_are_read_as_they_are() -> None:
    square = np.random.default_rng(1).standard_normal((32, 32), dtype=np.float32).T
    model = plan_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "weight"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        ),
        {"weight": square},
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    (found,) = open_session(model, 1).run({"x": INPUT})
    assert np.allclose(found, INPUT @ square, atol=1e-5)
