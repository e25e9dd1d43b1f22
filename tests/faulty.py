"""Models, data and metrics of a user who makes mistakes; job files name them as entry points."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import LinearNet, seeded

Batches = list[tuple[Tensor, Tensor]]


def good_model() -> nn.Module:
    return seeded(LinearNet)


def good_data(count: int = 64, seed: int = 1) -> Batches:
    inputs = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        targets = seeded(LinearNet)(inputs).argmax(1)
    return list(zip(inputs.split(16), targets.split(16), strict=True))


def good_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).double()


# Models


def model_file() -> str:
    return "checkpoint.pt"


def unloadable_model() -> nn.Module:
    raise FileNotFoundError(2, "No such file or directory", "checkpoint.pt")


def nan_weights() -> nn.Module:
    model = good_model()
    with torch.no_grad():
        model.second.weight[3, 5] = float("nan")
    return model


def scripted_model() -> nn.Module:
    return torch.jit.script(good_model())


def quantized_model() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(good_model(), {nn.Linear})


def half_model() -> nn.Module:
    return good_model().half()


def meta_model() -> nn.Module:
    return good_model().to("meta")


class _Wrapped(LinearNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.change(super().forward(x))

    def change(self, y: Tensor) -> Tensor:
        return y


class _LogNet(_Wrapped):
    def change(self, y: Tensor) -> Tensor:
        return torch.log(y)


class _SwishNet(_Wrapped):
    def change(self, y: Tensor) -> Tensor:
        return F.hardswish(y)


class _DropoutNet(_Wrapped):
    def change(self, y: Tensor) -> Tensor:
        return F.dropout(y, 0.5, training=True)


class _CountingNet(_Wrapped):
    calls = 0

    def change(self, y: Tensor) -> Tensor:
        self.calls += 1
        return y + self.calls


class _BranchingHead(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        if y.sum() > 0:
            return y
        return -y


class _BranchingNet(_Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.head = _BranchingHead()

    def change(self, y: Tensor) -> Tensor:
        return self.head(y)


class _CountNet(_Wrapped):
    def change(self, y: Tensor) -> Tensor:
        return torch.arange(len(y))


class _MeanNet(_Wrapped):
    def change(self, y: Tensor) -> Tensor:
        return y.mean()


class _BareNet(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cos(x)


class _RatioNet(LinearNet):
    """In int8 the smallest values become zero, and what they divide infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32, bias=False)
        nn.init.eye_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(self.second(y)) / y[:, :4]


class _VolumeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 1)
        self.last = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.flatten(self.conv(x.reshape(-1, 1, 1, 4, 4)), 1))


def log_model() -> nn.Module:
    return seeded(_LogNet)


def swish_model() -> nn.Module:
    return seeded(_SwishNet)


def dropout_model() -> nn.Module:
    return seeded(_DropoutNet)


def counting_model() -> nn.Module:
    return seeded(_CountingNet)


def branching_model() -> nn.Module:
    return seeded(_BranchingNet)


def count_model() -> nn.Module:
    return seeded(_CountNet)


def mean_model() -> nn.Module:
    return seeded(_MeanNet)


def bare_model() -> nn.Module:
    return seeded(_BareNet)


def ratio_model() -> nn.Module:
    return seeded(_RatioNet)


def volume_model() -> nn.Module:
    return seeded(_VolumeNet)


# Data


def no_batches() -> Batches:
    return []


def empty_batch() -> Batches:
    return [*good_data(), (torch.zeros(0, 16), torch.zeros(0))]


def nan_batch() -> Batches:
    batches = good_data()
    batches[2][0][1, 7] = float("nan")
    return batches


def other_shape() -> Batches:
    return [*good_data(), (torch.zeros(16, 12), torch.zeros(16))]


def wrong_shape() -> Batches:
    return [(torch.zeros(16, 3, 8, 8), torch.zeros(16))]


def few_targets() -> Batches:
    return [(inputs, targets[:-1]) for inputs, targets in good_data()]


def integer_data() -> Batches:
    return [((inputs * 100).long(), targets) for inputs, targets in good_data()]


def later_integers() -> Batches:
    return good_data()[:2] + integer_data()[2:]


def named_inputs() -> list[dict[str, Tensor]]:
    return [{"pixels": inputs} for inputs, _ in good_data()]


def uneven_tensors() -> tuple[Tensor, Tensor]:
    return torch.zeros(64, 16), torch.zeros(60)


def no_targets() -> list[Tensor]:
    return [inputs for inputs, _ in good_data()]


def paths() -> list[str]:
    return ["image-1.png", "image-2.png"]


def unreadable_data() -> Batches:
    raise PermissionError(13, "Permission denied", "/data/images")


def forgotten_data() -> None:
    good_data()


def broken_loader() -> Iterator[tuple[Tensor, Tensor]]:
    yield from good_data()[:2]
    raise OSError("image-3.png is truncated")


def overflowing() -> Batches:
    """Finite values in the last batch that no float32 layer can sum."""
    return [*good_data(), (torch.full((16, 16), 3e38), torch.zeros(16, dtype=torch.long))]


def steps(count: int = 64) -> Batches:
    """Values between 0.001 and 100, which int8 cannot hold together."""
    inputs = torch.logspace(-3, 2, count * 16).reshape(16, count).T
    return [(inputs, torch.zeros(count, dtype=torch.long))]


# Metrics


def raising_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.missing(targets)


def nan_metric(outputs: Tensor, targets: Tensor) -> float:
    return float("nan")


def matrix_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


def writing_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    return good_metric(outputs.sub_(outputs.mean()), targets)


def text_metric(outputs: Tensor, targets: Tensor) -> str:
    return "good"


# Faults of quantization: models that are right in float


class ChainNet(nn.Module):
    """Three convolutions in a row and a linear head."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.third = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.third(F.relu(self.second(F.relu(self.first(x))))))
        return self.last(x.mean((2, 3)))


def chain_model() -> nn.Module:
    return seeded(ChainNet)


def outlier_model(factor: float = 256.0, channels: int = 2) -> nn.Module:
    """The same function as `chain_model`, with outlier channels between its first two layers."""
    model = chain_model()
    with torch.no_grad():
        model.first.weight[:channels] *= factor
        model.first.bias[:channels] *= factor
        model.second.weight[:, :channels] /= factor
    return model
