"""Metrics: one score for each sample, higher is better.

A metric is any function `metric(outputs, targets)`. It may return a tensor of shape (batch,), one
score a sample, which gives the exact paired standard error; or one number for the batch, whose
standard error is then taken over batches.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["accuracy", "mse", "top5"]


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Score 1 where the largest logit is the target.

    Args:
        outputs: Shape (batch, classes, ...).
        targets: Shape (batch, ...), class indices; scores are averaged over what follows.

    Returns:
        Shape (batch,), in [0, 1].
    """
    right = (outputs.argmax(1) == targets).float()
    return right.reshape(len(right), -1).mean(1)


def top5(outputs: Tensor, targets: Tensor) -> Tensor:
    """Score 1 where the target is among the five largest logits.

    Args:
        outputs: Shape (batch, classes).
        targets: Shape (batch,), class indices.

    Returns:
        Shape (batch,), 0 or 1.
    """
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(1).float()


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Score minus the mean squared error, so that higher is better.

    Args:
        outputs: Shape (batch, ...).
        targets: The same shape.

    Returns:
        Shape (batch,), at most 0.
    """
    return -((outputs - targets) ** 2).reshape(len(outputs), -1).mean(1)
