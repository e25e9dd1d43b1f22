"""Networks whose calls torch.fx and torch.export write down differently."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """One ReLU module behind a convolution and behind the add, as torchvision's ResNets have it."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """Four residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(ResidualBlock(16, 16), ResidualBlock(16, 16))
        self.layer2 = nn.Sequential(ResidualBlock(16, 32, 2), ResidualBlock(32, 32))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Spellings(nn.Module):
    """One sum five ways, with dropout, dead code and constants between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.last = nn.Linear(16, 4)
        self.drop = nn.Dropout(0.5)
        self.unused = nn.Linear(3, 3)
        self.register_buffer("table", torch.linspace(-1, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        dead = self.first(x) + x  # noqa: F841
        table = self.table + self.table
        y = self.drop(self.first(x))
        y = y + x
        y = torch.add(y, x)
        y = operator.add(y, table)
        y = y.add(x)
        y += F.dropout(x, 0.1, self.training)
        return self.last(F.normalize(y) + 1.0)


class Functional(nn.Module):
    """Weights that functions read, attention's product, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.bias = nn.Parameter(torch.randn(8))
        self.matrix = nn.Parameter(torch.randn(8, 8) * 0.3)
        self.act = nn.Hardswish()
        self.head = nn.Linear(8, 5)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = F.relu(F.conv2d(x, self.kernel, self.bias, (1, 1), (1, 1), (1, 1), 1))
        z = torch.cat([y * torch.sigmoid(y), y], 1)[:, :8]
        z = self.act(z).mean([2, 3])
        z = self.norm(F.gelu(F.linear(z, self.matrix)))
        return {"scores": self.head(z), "similar": z @ z.transpose(0, 1)}


class Attention(nn.Module):
    """A MultiheadAttention, which torch.fx keeps whole, and a PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 16)
        self.mha = nn.MultiheadAttention(16, 4, batch_first=True)
        self.grow = nn.Linear(16, 32)
        self.act = nn.PReLU()
        self.shrink = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.mha(x, x, x, need_weights=False)[0]
        return x + self.shrink(self.act(self.grow(x)))


class Aliased(nn.Module):
    """One layer under two names, called under both, and one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = self.first
        self.act = nn.Hardswish()
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.second(self.act(self.first(x)))))


class Torn(nn.Module):
    """One layer with a relu behind its first call alone: torch's fusion puts it behind both."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.act(self.layer(x)))


class Branching(nn.Module):
    """Control flow on a shape: torch.export follows it, torch.fx does not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = BranchingInside()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class BranchingInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if x.shape[1] > 3:
            y = -y
        return y
