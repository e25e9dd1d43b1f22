"""ResNet-20 with outlier channels inside, as the model of a job.

autoquant calibrate experiments/resnet20_cifar10.yaml \
    --set model.entry=../scripts/bench/outliers.py:resnet20_with_outliers \
    --set model.arguments.folder=FOLDER --set data.arguments.folder=FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from models import outlier_resnet20  # noqa: E402

from experiments import resnet20  # noqa: E402


def resnet20_with_outliers(folder: str) -> nn.Module:
    """Give the trained network as the same function with two channels of three tensors times 64."""
    return outlier_resnet20(resnet20.model(folder))
