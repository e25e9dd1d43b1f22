"""The axis of channels is the one that the ops around a tensor say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture

CHANNELS = 5


class Tokens(nn.Module):
    """Features last: a sum of inputs, a norm, a linear layer, an activation between two."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)
        self.first = nn.Linear(CHANNELS, CHANNELS)
        self.lstm = nn.LSTM(CHANNELS, CHANNELS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x + x.abs())
        return torch.tanh(self.lstm(x + F.gelu(self.first(y)))[0])


class Signals(nn.Module):
    """Channels second: a convolution, a norm, an activation between two."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.GroupNorm(1, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(x + F.gelu(self.first(x + x.abs()))))


@pytest.mark.parametrize(
    ("network", "shape"),
    [(Tokens, (7, CHANNELS)), (Signals, (CHANNELS, 7))],
    ids=["last", "second"],
)
def test_every_tensor_between_ops_with_channels_has_theirs(
    network: type[nn.Module], shape: tuple[int, int]
) -> None:
    inputs = torch.randn(3, *shape)
    found = calibrate(capture(network().eval(), (inputs,)), [(inputs,)])
    assert len(found.tensors) > 5
    assert {item.channel_low.size for item in found.tensors.values()} == {CHANNELS}
