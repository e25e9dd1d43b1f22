"""Networks that are right in float, and wrong in int8 for one known reason each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.core.findings.diagnosis import Cause, Pattern
from autoquant.core.plan import Plan
from tests.networks import images, seeded

WIDTH = 16

OF_ANY_NETWORK = {
    "clipped_range": (Cause.CLIPPED_RANGE, Pattern.INSENSITIVE, "data.calibration"),
    "outlier_channels": (Cause.OUTLIER_CHANNELS, Pattern.INSENSITIVE, "raise every op"),
    "outlier_sample": (Cause.OUTLIER_SAMPLE, Pattern.SENSITIVE, "look at sample 37"),
    "outlier_calibration_sample": (
        Cause.OUTLIER_CALIBRATION,
        Pattern.INSENSITIVE,
        "take sample 21 out of data.calibration",
    ),
}
"""By fault, what is said of it whichever the network: its cause, its pattern, part of the step."""


@dataclass(frozen=True)
class Fault:
    """A model with the data that show its fault.

    Attributes:
        model: In eval mode.
        calibration: Inputs to calibrate on, shape (samples, 3, 16, 16).
        evaluation: Inputs to compare on, in the same shape.
        site: Of the op that is to blame.
        sample: Of the evaluation (or calibration) data that is to blame, where one is.
        engine: Of torch's that runs the model's int8 ops rightly.
        plan: That shows it.
    """

    model: nn.Module
    calibration: Tensor
    evaluation: Tensor
    site: str
    sample: int | None = None
    engine: str = "onednn"
    plan: Plan | str = "int8"


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(y)))


class ResidualNet(nn.Module):
    """A stem, two residual blocks and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.block1 = ResidualBlock()
        self.block2 = ResidualBlock()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(F.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


class SharedNet(nn.Module):
    """One convolution reads the features, and then the same features a hundred times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.shared = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.large = nn.Conv2d(WIDTH, WIDTH, 1)
        self.small_head = nn.Linear(WIDTH, 10)
        self.large_head = nn.Linear(WIDTH, 10)
        with torch.no_grad():
            self.large.weight.mul_(100.0)
            self.large_head.weight.div_(100.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        small = self.shared(x)
        large = self.shared(self.large(x))
        return self.small_head(small.mean((2, 3))) + self.large_head(large.mean((2, 3)))


class GatedNet(nn.Module):
    """Two of the gates are 0 or 1 whatever the input; the others decide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.gate = nn.Conv2d(WIDTH, WIDTH, 1)
        self.sigmoid = nn.Sigmoid()
        self.head = nn.Linear(WIDTH, 10)
        with torch.no_grad():
            self.gate.weight.mul_(4.0)
            self.gate.bias[:2] = torch.tensor([3000.0, -3000.0])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x * self.sigmoid(self.gate(x))
        return self.head(x.mean((2, 3)))


class UpsamplingNet(nn.Module):
    """A stem, a transposed convolution and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.up = nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.up(x)).mean((2, 3)))


class TwoHeads(nn.Module):
    """Gives a dict of logits and a pair of boxes and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.logits = nn.Linear(WIDTH, 10)
        self.boxes = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = F.relu(self.stem(x)).mean((2, 3))
        boxes = self.boxes(x)
        return {"logits": self.logits(x), "boxes": (boxes, torch.sigmoid(boxes))}


def clipped_range() -> Fault:
    """Calibrated on images of a tenth of the contrast."""
    return Fault(seeded(ResidualNet), 0.1 * images(64, 1), images(96, 2), site="stem")


def outlier_channels() -> Fault:
    """Two channels of the residual stream are 512 times as large: the function stays the same.

    Scaled where the stream is written, unscaled where it is read; relus and adds commute with it.
    """
    model = seeded(ResidualNet)
    with torch.no_grad():
        for channel in (3, 11):
            for writer in (model.stem, model.block1.bn2, model.block2.bn2):
                writer.weight[channel] *= 512.0
                writer.bias[channel] *= 512.0
            for reader in (model.block1.conv1, model.block2.conv1, model.head):
                reader.weight[:, channel] /= 512.0
    return Fault(model, images(64, 1), images(96, 2), site="stem")


def saturated_sigmoid() -> Fault:
    return Fault(seeded(GatedNet), images(64, 1), images(96, 2), site="sigmoid")


def per_tensor_weight() -> Fault:
    """Two equal inputs of a transposed convolution take large weights that cancel."""
    model = seeded(UpsamplingNet)
    with torch.no_grad():
        model.stem.weight[1] = model.stem.weight[0]
        model.stem.bias[1] = model.stem.bias[0]
        model.up.weight[0, 5] += 50.0
        model.up.weight[1, 5] -= 50.0
        model.head.bias.zero_()
    return Fault(model, images(64, 1), images(96, 2), site="up", engine="qnnpack")


def outlier_sample() -> Fault:
    """One evaluation image is fifty times as bright."""
    evaluation = images(96, 2)
    evaluation[37] *= 50.0
    return Fault(seeded(ResidualNet), images(64, 1), evaluation, site="stem", sample=37)


def outlier_calibration_sample() -> Fault:
    """One calibration image is a thousand times as bright: it sets all ranges."""
    calibration = images(64, 1)
    calibration[21] *= 1000.0
    return Fault(seeded(ResidualNet), calibration, images(96, 2), site="stem", sample=21)


def varying_range() -> Fault:
    """The brightness of images spans four orders of magnitude."""

    def spread(count: int, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return images(count, seed) * 10.0 ** (4 * torch.rand(count, 1, 1, 1, generator=draw) - 2)

    return Fault(seeded(ResidualNet), spread(64, 1), spread(96, 2), site="stem")


FAULTS: dict[str, Callable[[], Fault]] = {
    "clipped_range": clipped_range,
    "outlier_channels": outlier_channels,
    "saturated_sigmoid": saturated_sigmoid,
    "per_tensor_weight": per_tensor_weight,
    "outlier_sample": outlier_sample,
    "outlier_calibration_sample": outlier_calibration_sample,
    "varying_range": varying_range,
}
