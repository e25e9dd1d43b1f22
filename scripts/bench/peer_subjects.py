"""ResNet-20, plain and with outlier channels, for every tool of the comparison.

Imported here and inside the peers' own environments: it needs torch, numpy and safetensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from models import outlier_resnet20
from torch import Tensor, nn

from experiments import resnet20

PLAIN, OUTLIERS = "ResNet-20", "ResNet-20, outliers"
BATCH_SIZE = resnet20.BATCH_SIZE
CALIBRATION_SAMPLES = 256
MAX_DROP = 0.005
PAIRS = 40
Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class PeerSubject:
    """A model with its data, in batches of 64."""

    model: nn.Module
    calibration: Batches
    validation: Batches
    heldout: Batches


def load(name: str, folder: Path, validation: int | None, heldout: int | None) -> PeerSubject:
    """Load one of the two subjects; None: all images of the split."""
    model = resnet20.model(str(folder))
    return PeerSubject(
        model=outlier_resnet20(model) if name == OUTLIERS else model,
        calibration=resnet20.calibration(str(folder), CALIBRATION_SAMPLES),
        validation=resnet20.evaluation(str(folder), validation),
        heldout=resnet20.heldout(str(folder), heldout),
    )


def accuracy(run: Callable[[Tensor], Tensor], batches: Batches) -> float:
    """Share of images whose largest output is their label's."""
    with torch.no_grad():
        right = sum(int((run(images).argmax(1) == labels).sum()) for images, labels in batches)
    return right / sum(len(labels) for _, labels in batches)
