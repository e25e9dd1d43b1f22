"""Handwritten digits: a small MobileNetV3-style network on scikit-learn's bundled images.

A job file names these functions as its entry points; copy this file to start an experiment of
your own. `model` gives the trained network, `calibration`, `evaluation` and `heldout` give lists
of `(inputs, targets)` batches. `training`, `loss` and `learning_rate` are those of the float
training, for `autoquant finetune`. Nothing here knows that the network will be quantized.

The first call trains the network (under a minute) and keeps the weights in the folder that the
environment variable AUTOQUANT_CACHE names, `~/.cache/autoquant` by default.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]

IMAGE_SIZE = 16
SPLIT_SEED = 0
TRAINING_COUNT, EVALUATION_COUNT = 901, 448
CALIBRATION_COUNT = 256
BATCH_SIZE = 64
ONE_CYCLE_WARMUP = 0.3  # share of the steps, torch's default


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, beside this file's code."""

    width: int
    epochs: int = 10
    batch_size: int = 50
    learning_rate: float = 4e-3
    seed: int = 0


def model(width: int = 48, outlier_scale: float = 1.0) -> nn.Module:
    """Give the trained network, in eval mode; the first call for a width trains it.

    Args:
        width: Channels of the first stage; the second has twice as many.
        outlier_scale: Above 1, two channels of the last shortcut are scaled by it where they are
            written, and unscaled where they are read: the same function, which int8 finds hard.
    """
    recipe = Recipe(width)
    network = DigitsNet(width)
    network.load_state_dict(_trained_weights(recipe))
    _scale_shortcut(network, outlier_scale)
    return network.eval()


def calibration() -> list[Batch]:
    """Give 256 of the training images, from which ranges of activations are taken."""
    return _batches(*_split()[0], limit=CALIBRATION_COUNT)


def evaluation() -> list[Batch]:
    """Give 448 images that training never saw, on which candidates are compared."""
    return _batches(*_split()[1])


def heldout() -> list[Batch]:
    """Give 448 images that neither training nor the search saw."""
    return _batches(*_split()[2])


def training() -> Augmented:
    """Give the 901 training images, shuffled and shifted anew each time they are read."""
    images, labels = _split()[0]
    return Augmented(images, labels, Recipe.batch_size)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Give what training lowered: one number for the batch."""
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


def learning_rate(progress: float) -> float:
    """Give the learning rate of the float training after its warm-up: half a cosine."""
    fall = (progress - ONE_CYCLE_WARMUP) / (1 - ONE_CYCLE_WARMUP)
    return Recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(max(fall, 0.0), 1.0)))


class Augmented:
    """Batches of one epoch each time it is read, every batch shifted by up to a pixel each way.

    Args:
        images: Shape (samples, 1, height, width).
        labels: Shape (samples,).
        batch_size: Of all batches but the last.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self._images = images
        self._labels = labels
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        """Draw order and shifts from torch's global generator."""
        for chosen in torch.randperm(len(self._labels)).split(self._batch_size):
            down, right = torch.randint(-1, 2, (2,)).tolist()
            yield self._images[chosen].roll((down, right), dims=(2, 3)), self._labels[chosen]


class DigitsNet(nn.Module):
    """Stem, three inverted-residual blocks on two resolutions, head.

    Args:
        width: Channels of the first stage.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = _conv_bn(1, width, kernel=3, activation=True)
        self.blocks = nn.Sequential(
            InvertedResidual(width, width),
            InvertedResidual(width, 2 * width, stride=2),
            InvertedResidual(2 * width, 2 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Give logits of shape (batch, 10) for images of shape (batch, 1, 16, 16)."""
        features = self.pool(self.blocks(self.stem(images)))
        logits: Tensor = self.head(torch.flatten(features, 1))
        return logits


class InvertedResidual(nn.Module):
    """Expand, filter each channel, weigh the channels, project (Howard et al., MobileNetV3)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        hidden = 2 * inputs
        self.expand = _conv_bn(inputs, hidden, kernel=1, activation=True)
        self.depthwise = _conv_bn(
            hidden, hidden, kernel=3, stride=stride, groups=hidden, activation=True
        )
        self.excite = SqueezeExcite(hidden)
        self.project = _conv_bn(hidden, outputs, kernel=1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """Give features of shape (batch, outputs, height / stride, width / stride)."""
        features: Tensor = self.project(self.excite(self.depthwise(self.expand(inputs))))
        return inputs + features if self.has_shortcut else features


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate between 0 and 1 computed from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Give the features, scaled; the shape stays."""
        scaled: Tensor = features * self.gate(features)
        return scaled


def _conv_bn(
    inputs: int,
    outputs: int,
    *,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: bool = False,
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation:
        layers.append(nn.Hardswish())
    return nn.Sequential(*layers)


def _split() -> tuple[Batch, Batch, Batch]:
    """Give training, evaluation and held-out images with labels; always the same ones."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    images = F.interpolate(images, size=IMAGE_SIZE, mode="bilinear", align_corners=False)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    training, evaluation, heldout = order.tensor_split(
        (TRAINING_COUNT, TRAINING_COUNT + EVALUATION_COUNT)
    )
    return (
        (images[training], labels[training]),
        (images[evaluation], labels[evaluation]),
        (images[heldout], labels[heldout]),
    )


def _batches(images: Tensor, labels: Tensor, limit: int | None = None) -> list[Batch]:
    return list(
        zip(images[:limit].split(BATCH_SIZE), labels[:limit].split(BATCH_SIZE), strict=True)
    )


def _trained_weights(recipe: Recipe) -> dict[str, Tensor]:
    """Load the weights, after training them where no process has yet."""
    key = hashlib.sha256(Path(__file__).read_bytes() + repr(recipe).encode()).hexdigest()[:12]
    folder = Path(os.environ.get("AUTOQUANT_CACHE") or Path.home() / ".cache" / "autoquant")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"digits-{key}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            unfinished = path.with_suffix(f".{os.getpid()}")
            with _one_thread():
                save_file(_train(recipe).state_dict(), unfinished)
            unfinished.replace(path)
    return load_file(path)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, so that the weights do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(recipe: Recipe) -> DigitsNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = DigitsNet(recipe.width)
        images, labels = _split()[0]
        steps = recipe.epochs * -(-len(labels) // recipe.batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps)
        epoch = Augmented(images, labels, recipe.batch_size)
        for inputs, targets in chain.from_iterable(repeat(epoch, recipe.epochs)):
            optimizer.zero_grad()
            loss(network(inputs), targets).backward()
            optimizer.step()
            schedule.step()
    return network


def _scale_shortcut(network: DigitsNet, scale: float) -> None:
    """Scale two channels of the last shortcut and unscale what reads them, in place."""
    blocks = network.blocks
    writers = [blocks.get_submodule("1.project.1"), blocks.get_submodule("2.project.1")]
    readers = [blocks.get_submodule("2.expand.0"), network.head]
    channels = _weight_of(writers[0]).abs().topk(2).indices
    with torch.no_grad():
        for module in writers:
            for parameter in module.parameters():
                parameter[channels] *= scale
        for module in readers:
            _weight_of(module)[:, channels] /= scale


def _weight_of(module: nn.Module) -> Tensor:
    return module.get_parameter("weight")
