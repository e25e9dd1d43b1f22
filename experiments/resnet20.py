"""ResNet-20 on CIFAR-10 (He et al. 2016), from a folder that holds weights and images.

The folder holds two files:

- `resnet20_cifar10.safetensors`: the state dict, float32, under the names of the modules below;
- `cifar10_jpeg.npz`: uint8 images of shape (n, 32, 32, 3) as `calibration_images`,
  `validation_images` and `test_images`, and their labels 0 to 9 as `calibration_labels` and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from autoquant.errors import DataError

Batch = tuple[Tensor, Tensor]

WEIGHTS = "resnet20_cifar10.safetensors"
IMAGES = "cifar10_jpeg.npz"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BATCH_SIZE = 64


def model(folder: str = "data/cifar10", outlier_scale: float = 1.0) -> nn.Module:
    """Give the trained network, in eval mode.

    Args:
        folder: Holds the weights.
        outlier_scale: Above 1, two channels within a block of each stage are scaled by it where
            they are written, and unscaled where they are read: the same function, which int8
            finds hard.

    Raises:
        DataError: The folder has no weights.
    """
    network = ResNet20()
    network.load_state_dict(load_file(_find(folder, WEIGHTS)))
    for stage in (network.layer1, network.layer2, network.layer3):
        _scale_channels(stage.get_submodule("1"), outlier_scale)
    return network.eval()


def training(folder: str = "data/cifar10", batch_size: int = BATCH_SIZE) -> Augmented:
    """Give all images of the training split that the folder has, mirrored and shifted.

    They are few (512), so their targets are not the labels, which would soon be learnt by heart,
    but the probabilities that the trained network gives each class (Hinton et al., arXiv
    1503.02531, at temperature 1).
    """
    images, _ = _tensors(folder, "calibration", None)
    return Augmented(images, model(folder), batch_size)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Give the cross entropy of a batch against labels, or against probabilities."""
    return F.cross_entropy(logits, targets)


def calibration(folder: str = "data/cifar10", samples: int = 256) -> list[Batch]:
    """Give training images, from which ranges of activations are taken."""
    return _batches(folder, "calibration", samples)


def evaluation(folder: str = "data/cifar10", samples: int | None = None) -> list[Batch]:
    """Give the validation images, on which candidates are compared."""
    return _batches(folder, "validation", samples)


def heldout(folder: str = "data/cifar10", samples: int | None = None) -> list[Batch]:
    """Give the test images, which the search never sees."""
    return _batches(folder, "test", samples)


class Augmented:
    """Shuffled batches of one epoch each time it is read, with a network's probabilities.

    Each image is mirrored with probability one half; a batch is padded by 4 pixels each side and
    cropped at one place.

    Args:
        images: Shape (samples, 3, 32, 32).
        teacher: Gives logits of shape (batch, classes).
        batch_size: Of all batches but the last.
    """

    def __init__(self, images: Tensor, teacher: nn.Module, batch_size: int) -> None:
        self._images = images
        self._teacher = teacher
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        """Draw everything from torch's global generator."""
        for chosen in torch.randperm(len(self._images)).split(self._batch_size):
            images = self._images[chosen]
            mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
            images = F.pad(torch.where(mirrored, images.flip(3), images), (4, 4, 4, 4))
            down, right = torch.randint(0, 9, (2,)).tolist()
            images = images[:, :, down : down + 32, right : right + 32]
            with torch.no_grad():
                probabilities = torch.softmax(self._teacher(images), 1)
            yield images, probabilities


class ResNet20(nn.Module):
    """Three stages of three blocks with 16, 32 and 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, stride=1)
        self.layer2 = _stage(16, 32, stride=2)
        self.layer3 = _stage(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Give logits of shape (batch, 10) for images of shape (batch, 3, 32, 32)."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(torch.flatten(self.pool(features), 1))
        return logits


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut without weights (option A of the paper)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.new_channels = outputs - inputs
        self.stride = stride

    def forward(self, inputs: Tensor) -> Tensor:
        """Give features of shape (batch, outputs, height / stride, width / stride)."""
        features = F.relu(self.bn1(self.conv1(inputs)))
        features = self.bn2(self.conv2(features))
        return F.relu(features + self._shortcut(inputs))

    def _shortcut(self, inputs: Tensor) -> Tensor:
        """Take every `stride`-th pixel and put channels of zeros on both sides."""
        if self.new_channels == 0:
            return inputs
        before = self.new_channels // 2
        after = self.new_channels - before
        subsampled = inputs[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, before, after))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride),
        BasicBlock(outputs, outputs, 1),
        BasicBlock(outputs, outputs, 1),
    )


def _scale_channels(block: nn.Module, scale: float) -> None:
    """Scale the two largest channels between a block's convolutions, in place."""
    norm, reader = block.get_submodule("bn1"), block.get_submodule("conv2")
    channels = norm.get_parameter("weight").abs().topk(2).indices
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter[channels] *= scale
        reader.get_parameter("weight")[:, channels] /= scale


def _batches(folder: str, split: str, samples: int | None) -> list[Batch]:
    inputs, targets = _tensors(folder, split, samples)
    return list(zip(inputs.split(BATCH_SIZE), targets.split(BATCH_SIZE), strict=True))


def _tensors(folder: str, split: str, samples: int | None) -> Batch:
    path = _find(folder, IMAGES)
    try:
        with np.load(path) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint=_CONTENTS) from error
    inputs = torch.from_numpy(images[:samples]).permute(0, 3, 1, 2).contiguous().float() / 255
    inputs = (inputs - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return inputs, torch.from_numpy(labels[:samples]).long()


_CONTENTS = (
    f"the folder must hold {WEIGHTS} (the state dict) and {IMAGES} (uint8 images and labels of "
    "the splits calibration, validation and test); name it with --set "
    "model.arguments.folder=FOLDER --set data.arguments.folder=FOLDER"
)


def _find(folder: str, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise DataError(f"folder {folder!r} has no {name}", hint=_CONTENTS)
    return path
