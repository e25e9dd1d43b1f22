"""Metrics: one score for each sample, higher is better unless the metric says otherwise.

A metric is any function `metric(outputs, targets)`. It may return a tensor of shape (batch,), one
score a sample, which gives the exact paired standard error; or one number for the batch, whose
standard error is then taken over batches. Or it is an object with `update(outputs, targets)` and
`compute()`, which scores the data set as a whole; its standard error is taken by the jackknife.
One whose `higher_is_better` is False is a loss: what rises is worse. `unit` is shown beside its
name. One whose `against_float` is True needs no labels: its targets are the float model's outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils import _pytree as pytree

__all__ = ["Entry", "accuracy", "agreement", "cosine", "mse", "top5"]


class Entry:
    """One of the numbers that a metric over the data set computes: `Entry(metric, "map")`.

    Args:
        metric: An object whose `compute` gives a mapping.
        key: Which of its values is the score.
    """

    def __init__(self, metric: Any, key: str) -> None:
        self._metric = metric
        self._key = key
        self.__name__ = f"{getattr(metric, '__name__', type(metric).__name__)}[{key}]"
        self.higher_is_better = getattr(metric, "higher_is_better", None)

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in one batch."""
        self._metric.update(outputs, targets)

    def compute(self) -> Any:
        """Give the score over what was taken in."""
        return self._metric.compute()[self._key]

    def reset(self) -> None:
        """Forget what was taken in."""
        self._metric.reset()


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Score 1 where the largest logit is the target.

    Args:
        outputs: Shape (batch, classes, ...).
        targets: Shape (batch, ...), class indices; scores are averaged over what follows.

    Returns:
        Shape (batch,), in [0, 1].

    Raises:
        ValueError: There is one class alone, or the targets are no class indices.
    """
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        raise ValueError(
            f"outputs of shape {tuple(outputs.shape)} hold no two classes to choose from; of one "
            "logit, write ((outputs[:, 0] > 0) == targets).float()"
        )
    found = outputs.argmax(1)
    _check_shapes(targets, found, "; of one-hot targets, targets.argmax(1)")
    return (found == targets).float().reshape(len(found), -1).mean(1)


def agreement(outputs: Any, targets: Any) -> Tensor:
    """Score 1 where the largest logit is the float model's: of data without labels.

    Args:
        outputs: A tensor of shape (batch, classes, ...), or what holds tensors: the first counts.
        targets: The same of the float model.

    Returns:
        Shape (batch,), in [0, 1]; averaged over what follows the classes.
    """
    found, expected = _floats(outputs)[0], _floats(targets)[0]
    return accuracy(found, expected.argmax(1))


def cosine(outputs: Any, targets: Any) -> Tensor:
    """Score the cosine similarity with the float model's outputs: of data without labels.

    Args:
        outputs: A tensor of shape (batch, ...), or what holds several: the least similar counts.
        targets: The same of the float model.

    Returns:
        Shape (batch,), in [-1, 1]; 1 where both are zero.
    """
    pairs = zip(_floats(outputs), _floats(targets), strict=True)
    return torch.stack([_cosine(found, expected) for found, expected in pairs]).amin(0)


def _cosine(found: Tensor, expected: Tensor) -> Tensor:
    one, other = (item.double().reshape(len(item), -1) for item in (found, expected))
    alike = (one == other).all(1)  # also where both are zero
    return torch.where(alike, 1.0, cosine_similarity(one, other, dim=1))


def _floats(tree: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(tree)
    return [item for item in leaves if isinstance(item, Tensor) and item.is_floating_point()]


for _metric in (agreement, cosine):
    _metric.against_float = True  # type: ignore[attr-defined]


def _check_shapes(targets: Tensor, like: Tensor, mend: str = "") -> None:
    """Refuse what would broadcast: every sample would be scored against all targets."""
    if targets.shape != like.shape:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, and not {tuple(like.shape)}{mend}"
        )


def top5(outputs: Tensor, targets: Tensor) -> Tensor:
    """Score 1 where the target is among the five largest logits.

    Args:
        outputs: Shape (batch, classes).
        targets: Shape (batch,), class indices.

    Returns:
        Shape (batch,), 0 or 1.

    Raises:
        ValueError: The targets are no class indices.
    """
    _check_shapes(targets, outputs[:, 0])
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(1).float()


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Score minus the mean squared error, so that higher is better.

    Args:
        outputs: Shape (batch, ...).
        targets: The same shape.

    Returns:
        Shape (batch,), at most 0.

    Raises:
        ValueError: The targets have another shape.
    """
    _check_shapes(targets, outputs)
    return -((outputs - targets) ** 2).reshape(len(outputs), -1).mean(1)
