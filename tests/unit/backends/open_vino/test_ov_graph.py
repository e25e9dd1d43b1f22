from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino", reason="needs the extra openvino")

from autoquant.backends.openvino.graph import convert_float
from autoquant.errors import ModelError
from autoquant.model.graph.capture import capture


class Steps(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 6, batch_first=batch_first)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x)[0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_run_at_one_number_of_steps_alone(batch_first: bool) -> None:
    model, example = Steps(batch_first=batch_first).eval(), (torch.randn(3, 3, 4),)
    samples = 0 if batch_first else 1
    fixed = capture(model, example, how="export", dynamic=((samples,),))
    assert convert_float(fixed, example).model.inputs
    open_steps = capture(model, example, how="export", dynamic=((0, 1),))
    with pytest.raises(ModelError, match="at one number of steps, and the data have several"):
        convert_float(open_steps, example)
