"""The models of `lowering.py`, their inputs by batch size, and their blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model to be timed.

    Attributes:
        model: In eval mode.
        inputs: Gives a batch of a size.
        blocks: Paths whose precision mixed plans choose.
        is_traceable: By torch.fx.
    """

    model: nn.Module
    inputs: Callable[[int], Inputs]
    blocks: tuple[str, ...]
    is_traceable: bool = True


class Bottleneck(nn.Module):
    """A block of ResNet-50."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Add the block to its shortcut."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.shortcut(x))


class ResNet50(nn.Module):
    """ResNet-50 for images of 224 x 224."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        inputs = 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for index in range(count):
                blocks.append(Bottleneck(inputs, width, stride if index == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits."""
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 3, 2, 1)
        x = F.adaptive_avg_pool2d(self.blocks(x), 1)
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


# kernel, expanded channels, channels, squeeze-and-excite, activation, stride
_LARGE = (
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    padding = kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class InvertedResidual(nn.Module):
    """A block of MobileNetV3."""

    def __init__(
        self, inputs: int, kernel: int, hidden: int, outputs: int, gate: nn.Module,
        activation: type[nn.Module], stride: int,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers += [_conv_bn(inputs, hidden, 1), activation()]
        layers += [_conv_bn(hidden, hidden, kernel, stride, hidden), activation()]
        self.layers = nn.Sequential(*layers, gate, _conv_bn(hidden, outputs, 1))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Add the block to its shortcut where both have one shape."""
        y: Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


class Gate(nn.Module):
    """Squeeze-and-excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = (channels // 4 + 4) // 8 * 8
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        scale = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(scale)


class MobileNetV3(nn.Module):
    """MobileNetV3-Large for images of 224 x 224."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_bn(3, 16, 3, 2), nn.Hardswish())
        blocks: list[nn.Module] = []
        inputs = 16
        for kernel, hidden, outputs, has_gate, activation, stride in _LARGE:
            gate = Gate(hidden) if has_gate else nn.Identity()
            blocks.append(
                InvertedResidual(inputs, kernel, hidden, outputs, gate, activation, stride)
            )
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(_conv_bn(inputs, 960, 1), nn.Hardswish())
        self.head = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        """Give logits."""
        x = F.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), 1)
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


def _with_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


def _images(side: int, channels: int = 3) -> Callable[[int], Inputs]:
    return lambda size: (torch.randn(size, channels, side, side),)


def _numbered(path: str, count: int) -> tuple[str, ...]:
    return tuple(f"{path}.{index}" for index in range(count))


def resnet20() -> Subject:
    """ResNet-20 of CIFAR-10."""
    from experiments.resnet20 import ResNet20

    blocks: Sequence[str] = [name for stage in (1, 2, 3) for name in _numbered(f"layer{stage}", 3)]
    return Subject(_with_statistics(ResNet20()), _images(32), tuple(blocks))


def resnet50() -> Subject:
    """ResNet-50."""
    return Subject(_with_statistics(ResNet50()), _images(224), _numbered("blocks", 16))


def digits() -> Subject:
    """A small MobileNetV3: depthwise convolutions, hard-swish, squeeze-and-excite."""
    from experiments.digits import IMAGE_SIZE, DigitsNet

    model = _with_statistics(DigitsNet(48))
    return Subject(model, _images(IMAGE_SIZE, 1), _numbered("blocks", 3))


def mobilenet() -> Subject:
    """MobileNetV3-Large."""
    return Subject(_with_statistics(MobileNetV3()), _images(224), _numbered("blocks", 15))


def minilm() -> Subject:
    """MiniLM over sentences of 64 tokens."""
    from experiments import minilm as experiment

    def sentences(size: int) -> Inputs:
        tokens = torch.randint(1000, 20000, (size, 64))
        return tokens, torch.ones_like(tokens)

    blocks = _numbered("bert.encoder.layer", 6)
    return Subject(experiment.model(), sentences, blocks, is_traceable=False)


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "resnet20": resnet20,
    "resnet50": resnet50,
    "digits": digits,
    "mobilenet": mobilenet,
    "minilm": minilm,
}
