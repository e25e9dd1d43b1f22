from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino", reason="needs the extra openvino")

from autoquant.backends.openvino.engine import Options, compile_graph
from autoquant.backends.openvino.graph import convert_float
from autoquant.errors import ModelError
from autoquant.model.graph.capture import capture


class Steps(nn.Module):
    """All steps of a recurrent layer through another, and its last states."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.layer = kind(4, 6, **settings)
        size = settings.get("proj_size", 0) or 6
        self.last = nn.Linear(size * (2 if settings.get("bidirectional") else 1), 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        steps, state = self.layer(x)
        return (self.last(steps), *(state if isinstance(state, tuple) else (state,)))


SETTINGS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {"batch_first": True}),
    "lstm without bias, both ways": (nn.LSTM, {"bias": False, "bidirectional": True}),
    "lstms above each other": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "gru": (nn.GRU, {"batch_first": True}),
    "grus above each other": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "tanh": (nn.RNN, {"batch_first": True, "bidirectional": True}),
    "relu": (nn.RNN, {"nonlinearity": "relu", "bias": False}),
}


@pytest.mark.parametrize(("kind", "settings"), SETTINGS.values(), ids=SETTINGS.keys())
def test_a_recurrent_layer_is_one_op_for_any_number_of_steps(
    kind: type[nn.RNNBase], settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model, example = Steps(kind, **settings).eval(), (torch.randn(3, 5, 4),)
    graph = convert_float(capture(model, example, how="export", dynamic=((0, 1),)), example)
    compiled = compile_graph(graph.model, Options(), 1)
    kernels = compiled.get_runtime_model().get_ordered_ops()
    names = [str(node.get_rt_info()["layerType"].astype(str)) for node in kernels]
    directions = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
    assert names.count("RNNSeq") == directions
    for shape in ((3, 5, 4), (2, 9, 4), (1, 1, 4)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = model(x)
        for found, wanted in zip(compiled([x.numpy()]).to_tuple(), expected, strict=True):
            # a kernel's own exponential, over nine steps
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batch_first", [True, False])
def test_projections_run_at_one_number_of_steps_alone(batch_first: bool) -> None:
    model = Steps(nn.LSTM, batch_first=batch_first, proj_size=3).eval()
    example = (torch.randn(3, 3, 4),)
    samples = 0 if batch_first else 1
    fixed = capture(model, example, how="export", dynamic=((samples,),))
    compiled = compile_graph(convert_float(fixed, example).model, Options(), 1)
    (found, *_) = compiled([example[0].numpy()]).to_tuple()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(*example)[0])
    open_steps = capture(model, example, how="export", dynamic=((0, 1),))
    with pytest.raises(ModelError, match="LSTM with projections, at one number of steps"):
        convert_float(open_steps, example)
