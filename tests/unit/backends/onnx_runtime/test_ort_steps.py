from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxruntime", reason="needs the extra onnxruntime")

from onnx import TensorProto, helper

from autoquant.backends.onnxruntime.float_graph import OPSET, convert_float
from autoquant.backends.onnxruntime.plan_model import plan_model
from autoquant.backends.onnxruntime.sessions import open_session
from autoquant.errors import BackendError
from autoquant.model.graph.capture import capture
from autoquant.model.graph.exported import export_float


class Steps(nn.Module):
    """What follows a recurrent layer depends on how many steps there are."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(4, 6, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0].reshape(len(x), x.shape[1], 3, 4).mean(2)


def test_an_lstm_with_projections_is_refused_by_name() -> None:
    model, example = nn.LSTM(4, 6, proj_size=3).eval(), (torch.randn(2, 5, 4),)
    captured = capture(model, example, how="export")
    exported = export_float(captured, example)
    with pytest.raises(BackendError, match="lstm is an LSTM with projections"):
        convert_float(captured, exported)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_runs_any_number_of_steps(kind: type[nn.RNNBase]) -> None:
    model, example = Steps(kind).eval(), (torch.randn(2, 5, 4),)
    captured = capture(model, example, how="export", dynamic=((0, 1),))
    graph = convert_float(captured, export_float(captured, example))
    outputs = [helper.make_tensor_value_info(graph.outputs[0][0], TensorProto.FLOAT, None)]
    written = plan_model(
        helper.make_graph(graph.nodes, "steps", graph.inputs, outputs),
        graph.initializers,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )
    session = open_session(written, 1)
    for shape in ((2, 5, 4), (3, 9, 4)):
        x = torch.randn(shape)
        (found,) = session.run(session.feed((x,)))
        with torch.no_grad():
            assert np.allclose(found, model(x).numpy(), atol=1e-5)
