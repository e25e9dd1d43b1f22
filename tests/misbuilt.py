"""Small networks, each with one mistake of structure that a check must find."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Apart(nn.Module):
    """A convolution, a batch norm and a relu that nothing keeps from running as one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))

    def features(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class DropoutBetween(Apart):
    def features(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.drop(self.conv(x))))


class TwoReaders(Apart):
    def features(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(self.bn(y)) + y


class ReluBetween(Apart):
    def features(self, x: Tensor) -> Tensor:
        return self.bn(self.act(self.conv(x)))


class NoStatistics(Apart):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8, track_running_stats=False)


class TorchRelu(Apart):
    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class MethodRelu(Apart):
    def features(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class ReadBeforeRelu(Apart):
    """What pre-activation networks do on purpose."""

    def features(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return self.act(y) + y


class FunctionalConv(Apart):
    def features(self, x: Tensor) -> Tensor:
        return self.act(self.bn(F.conv2d(x, self.conv.weight, self.conv.bias, (1, 1), (1, 1))))


class FlattenBetween(Apart):
    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Linear(16, 8)

    def features(self, x: Tensor) -> Tensor:
        return self.act(self.grow(super().features(x)).flatten(2)).unsqueeze(3)


class WideLinear(Apart):
    """A batch norm over the middle axis of what a linear layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Linear(16, 8)
        self.bn = nn.BatchNorm1d(16)

    def features(self, x: Tensor) -> Tensor:
        rows = self.act(self.bn(self.grow(x.mean(1))))
        return rows.transpose(1, 2).unsqueeze(3)


class OtherLibrary(Apart):
    def features(self, x: Tensor) -> Tensor:
        doubled: Tensor = torch.ops.checked.double(super().features(x))
        return doubled


class MethodAdd(Apart):
    def features(self, x: Tensor) -> Tensor:
        y = super().features(x)
        return y.add(y)


class AtOperator(Apart):
    def features(self, x: Tensor) -> Tensor:
        y = super().features(x)
        return y @ y


@torch.fx.wrap
def scaled(x: Tensor) -> Tensor:
    return x * 2.0


class Wrapped(Apart):
    def features(self, x: Tensor) -> Tensor:
        return scaled(super().features(x))


class Attention(Apart):
    """torch traces nothing of `nn.MultiheadAttention`, nor does autoquant."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def features(self, x: Tensor) -> Tensor:
        y = super().features(x)
        tokens = y.flatten(2).transpose(1, 2)
        return self.attend(tokens, tokens, tokens)[0].transpose(1, 2).unsqueeze(3)


class Auxiliary(Apart):
    """A head that only training called."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


class Shared(nn.Module):
    """One convolution called twice; the second time on inputs `factor` times as large."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()
        self.spare = nn.Linear(2, 2)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.conv(x))
        b = self.act(self.conv(x * self.factor))
        return self.head((a + b).mean((2, 3)))


class SharedBehindNorms(nn.Module):
    """One convolution with another batch norm at each call, as in heads of detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(3)
        self.bn2 = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv(x)) + self.bn2(self.conv(x.flip(0)))
        return self.head(y.mean((2, 3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.conv(x))


class SharedBlock(nn.Module):
    """A block called twice, one of its modules under two names, and a buffer nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.first = nn.Hardswish()
        self.second = self.first
        self.tail = nn.Sequential(nn.Conv2d(3, 3, 1), self.first)
        self.register_buffer("steps", torch.tensor(7))
        self.width = 3
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        y = self.block(self.block(x) * scale)
        y = self.tail(self.second(y) + self.first(x))
        return self.head(y.mean((2, 3)))


class SharedBelow(nn.Module):
    """A forward that calls a module of its child, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"conv": nn.Conv2d(3, 3, 1), "act": nn.Tanh()})
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.parts["conv"](self.parts["act"](self.parts["conv"](x)))
        return self.head(y.mean((2, 3)))


class Ranked(Apart):
    """Returns logits, the classes of the best two, the best and the worst one."""

    def forward(self, x: Tensor) -> dict[str, object]:
        logits = super().forward(x)
        values, indices = torch.topk(logits, 2, dim=1)
        best = torch.softmax(logits, 1).argmax(1)
        last = logits.sort(1).indices[:, :1].int()
        return {"logits": logits, "top": (values, indices), "best": best, "last": last}


class Uncomparable(Apart):
    """Returns the mean over the batch, a count and what no error measure applies to."""

    def forward(self, x: Tensor) -> dict[str, object]:
        logits = super().forward(x)
        return {"mean": logits.mean(), "size": x.shape[0], "ids": torch.arange(3), "none": None}


class SoftmaxTail(Apart):
    """Probabilities are weighed inside the model: post-processing."""

    def __init__(self) -> None:
        super().__init__()
        self.soft = nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        probabilities = self.soft(super().forward(x))
        return probabilities * probabilities


def misbuilt(network: nn.Module) -> nn.Module:
    """The network in eval mode, with fixed weights and batch-norm statistics."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.copy_(torch.randn(module.num_features, generator=draw) * 0.2)
                module.running_var.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
    return network.eval()
