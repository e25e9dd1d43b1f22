"""Small real networks that between them hold every kind of site."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Depthwise and pointwise convolutions, hard-swish, squeeze-excite and a residual add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.Hardswish()
        self.fc1 = nn.Conv2d(channels, 8, 1)
        self.fc2 = nn.Conv2d(8, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        weight = y.mean((2, 3), keepdim=True)
        weight = torch.sigmoid(self.fc2(F.relu(self.fc1(weight))))
        y = self.bn2(self.conv2(y * weight))
        return F.relu(x + y)


class MixedNet(nn.Module):
    """Two blocks, a shared pool, a concatenation and a linear head."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.b1 = Block(channels)
        self.b2 = Block(channels)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(2 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        a = self.b1(x)
        b = self.b2(a)
        c = torch.cat([self.pool(a), self.pool(b)], 1)
        c = F.adaptive_avg_pool2d(c, 1)
        return self.head(torch.flatten(c, 1))


class LinearNet(nn.Module):
    """Three linear layers, the smallest thing worth searching."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.second = nn.Linear(32, 32)
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.second(F.relu(self.first(x)))))


class TextNet(nn.Module):
    """An embedding, an LSTM, a matmul and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.rnn = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.rnn(self.embed(tokens))
        mixed = torch.matmul(hidden.transpose(1, 2), hidden)
        return self.head(mixed.mean(1))


def seeded(network: Callable[[], nn.Module]) -> nn.Module:
    """The network in eval mode, with fixed random weights and batch-norm statistics."""
    torch.manual_seed(0)
    model = network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def images(count: int, seed: int = 0, size: int = 16) -> Tensor:
    """Random images, shape (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
