"""The axis of channels is the one that the ops around a tensor say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from autoquant.model.graph.channel_axes import LAST, SECOND, channel_axes

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


class Attention(nn.Module):
    """Heads are split off the features, moved, mixed and joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Linear(6, 6)
        self.out = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.values(x).reshape(3, 4, 2, 3).transpose(1, 2)
        mixed = torch.matmul(heads @ heads.transpose(2, 3), heads)
        return self.out(mixed.permute(0, 2, 1, 3).reshape(3, 4, 6))


class Patches(nn.Module):
    """Channels of an image become features of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("network", "shape", "op", "axis"),
    [
        (Attention, (3, 4, 6), "matmul_1", LAST),
        (Attention, (3, 4, 6), "reshape_1", LAST),
        (Patches, (3, 3, 8, 8), "view", SECOND),
        (Patches, (3, 3, 8, 8), "tanh", LAST),
    ],
)
def test_channels_are_followed_through_ops_that_move_them(
    network: type[nn.Module], shape: tuple[int, ...], op: str, axis: int
) -> None:
    captured = capture(network().eval(), (torch.randn(*shape),))
    assert channel_axes(captured.graph)[op] == axis
