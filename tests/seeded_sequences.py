"""A transformer and a recurrent network over sequences, with the faults of `seeded_faults`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from tests.encoders import Layer
from tests.networks import seeded
from tests.seeded_faults import Fault

WIDTH = 32
LOUD = (3, 11)
"""Channels that are made large where outlier channels are the fault."""


class Gate(nn.Module):
    """A sigmoid gate of which two channels are 0 or 1 whatever the input; the others decide."""

    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Linear(WIDTH, WIDTH)
        self.sigmoid = nn.Sigmoid()
        with torch.no_grad():
            self.product.weight.mul_(20.0)
            self.product.bias[:2] = torch.tensor([3000.0, -3000.0])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(self.product(x))


class Encoder(nn.Module):
    """A linear stem, a transformer layer and a linear head on the mean of the steps."""

    def __init__(self, gate: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.stem = nn.Linear(16, WIDTH)
        self.layer = Layer(WIDTH)
        self.gate = gate()
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.layer(self.stem(x)))
        return self.head(self.norm(x).mean(1))


class Recurrent(nn.Module):
    """A linear stem, an LSTM and a linear head on its last step."""

    def __init__(self, gate: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.stem = nn.Linear(16, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.gate = gate()
        self.head = nn.Linear(WIDTH, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.lstm(torch.relu(self.stem(x)))
        return self.head(self.gate(steps[:, -1]))


Network = Callable[..., nn.Module]


def sequences(count: int, seed: int) -> Tensor:
    """Random sequences of eight steps, shape (count, 8, 16)."""
    return torch.randn(count, 8, 16, generator=torch.Generator().manual_seed(seed))


def fault_of(
    model: nn.Module,
    calibration: Tensor,
    evaluation: Tensor,
    site: str = "stem",
    sample: int | None = None,
) -> Fault:
    """All int8, the LSTM in int8_dynamic."""
    if not isinstance(model, Recurrent):
        return Fault(model, calibration, evaluation, site, sample)
    gate = ["gate.product", "gate.sigmoid", "gate:mul:0"] if isinstance(model.gate, Gate) else []
    schemes = dict.fromkeys(["stem", *gate, "head"], Scheme.INT8)
    plan = Plan.of({**schemes, "lstm": Scheme.INT8_DYNAMIC})
    return Fault(model, calibration, evaluation, site, sample, plan=plan)


def healthy(network: Network) -> Fault:
    return fault_of(seeded(network), sequences(64, 1), sequences(96, 2))


def clipped_range(network: Network) -> Fault:
    return fault_of(seeded(network), 0.1 * sequences(64, 1), sequences(96, 2))


def outlier_sample(network: Network) -> Fault:
    evaluation = sequences(96, 2)
    evaluation[37] *= 20.0
    return fault_of(seeded(network), sequences(64, 1), evaluation, sample=37)


def outlier_calibration_sample(network: Network) -> Fault:
    calibration = sequences(64, 1)
    calibration[21] *= 1000.0
    return fault_of(seeded(network), calibration, sequences(96, 2), sample=21)


def varying_range(network: Network) -> Fault:
    """The strength of samples spans four orders of magnitude."""

    def spread(count: int, seed: int) -> Tensor:
        draw = torch.rand(count, 1, 1, generator=torch.Generator().manual_seed(seed))
        return sequences(count, seed) * 10.0 ** (4 * draw - 2)

    return fault_of(seeded(network), spread(64, 1), spread(96, 2))


def saturated_sigmoid(network: Network) -> Fault:
    model = seeded(partial(network, Gate))
    return fault_of(model, sequences(64, 1), sequences(96, 2), site="gate.sigmoid")


def loud_norm() -> Fault:
    """Two channels of a norm are large, and small again in the weights that read them."""
    model = seeded(Encoder)
    with torch.no_grad():
        for parameter in (model.layer.norm2.weight, model.layer.norm2.bias):
            parameter[list(LOUD)] = 512.0
        model.layer.grow.weight[:, list(LOUD)] /= 512.0
    return fault_of(model, sequences(64, 1), sequences(96, 2), site="layer.norm2")


def loud_values() -> Fault:
    """Two channels of what attention mixes are large, in two of its heads."""
    model, values = seeded(Encoder), [2 * WIDTH + channel for channel in LOUD]
    with torch.no_grad():
        model.layer.attention.qkv.weight[values] *= 512.0
        model.layer.attention.qkv.bias[values] *= 512.0
        model.layer.attention.out.weight[:, list(LOUD)] /= 512.0
    return fault_of(model, sequences(64, 1), sequences(96, 2), site="layer.attention.qkv")


def loud_stem() -> Fault:
    """Two channels that an LSTM reads are large."""
    model = seeded(Recurrent)
    with torch.no_grad():
        model.stem.weight[list(LOUD)] *= 512.0
        model.stem.bias[list(LOUD)] *= 512.0
        model.lstm.weight_ih_l0[:, list(LOUD)] /= 512.0
    return fault_of(model, sequences(64, 1), sequences(96, 2))


def per_tensor_weight() -> Fault:
    """Two equal inputs of an LSTM take large weights that cancel."""
    model = seeded(Recurrent)
    with torch.no_grad():
        model.stem.weight[1] = model.stem.weight[0]
        model.stem.bias[1] = model.stem.bias[0]
        model.lstm.weight_ih_l0[40, 0] += 50.0
        model.lstm.weight_ih_l0[40, 1] -= 50.0
    return fault_of(model, sequences(64, 1), sequences(96, 2), site="lstm")


_ANY = {
    "clipped_range": clipped_range,
    "outlier_sample": outlier_sample,
    "outlier_calibration_sample": outlier_calibration_sample,
    "saturated_sigmoid": saturated_sigmoid,
    "varying_range": varying_range,
}
SEQUENCE_FAULTS: Mapping[str, Callable[[], Fault]] = {
    **{f"encoder {name}": partial(seed, Encoder) for name, seed in _ANY.items()},
    **{f"lstm {name}": partial(seed, Recurrent) for name, seed in _ANY.items()},
    "encoder outlier_channels": loud_norm,
    "encoder outlier_channels in heads": loud_values,
    "lstm outlier_channels": loud_stem,
    "lstm per_tensor_weight": per_tensor_weight,
}
"""By network and cause."""
