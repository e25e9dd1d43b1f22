"""Metrics: one score for each sample, higher is better unless the metric says otherwise.

A metric is any function `metric(outputs, targets)`. It may return a tensor of shape (batch,), one
score a sample, which gives the exact paired standard error; or one number for the batch, whose
standard error is then taken over batches. Or it is an object with `update(outputs, targets)` and
`compute()`, which scores the data set as a whole; its standard error is taken by the jackknife.
One whose `higher_is_better` is False is a loss: what rises is worse. `unit` is shown beside its
name. One whose `against_float` is True needs no labels: its targets are the float model's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils import _pytree as pytree

__all__ = ["Entry", "accuracy", "agreement", "cosine", "mse", "top5"]

_IGNORED = -100


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


def accuracy(outputs: Any, targets: Tensor) -> Tensor:
    """Score 1 where the largest logit is the target.

    Args:
        outputs: A tensor of shape (batch, classes, ...) or (batch, ..., classes): the axis that the
            targets lack, the first where two would do. Or what holds tensors: its `logits`, or the
            only one of floats.
        targets: Shape (batch, ...), class indices; scores are averaged over what follows, -100 left
            out (`ignore_index` of torch.nn.CrossEntropyLoss).

    Returns:
        Shape (batch,), in [0, 1].

    Raises:
        ValueError: There is one class alone, the targets are no class indices, a sample has none to
            find, or the outputs hold several tensors.
    """
    logits = _scored(outputs)
    last = logits.ndim > 2 and targets.shape == logits.shape[:-1] != logits[:, 0].shape
    return _found(logits, targets, -1 if last else 1)


_NO_CLASSES = (
    "outputs of shape {} hold no two classes to choose from; of one logit, write "
    "((outputs[:, 0] > 0) == targets).float()"
)


def _found(logits: Tensor, targets: Tensor, axis: int) -> Tensor:
    if logits.ndim < 2 or logits.shape[axis] < 2:
        raise ValueError(_NO_CLASSES.format(tuple(logits.shape)))
    found = logits.argmax(axis)
    _check_shapes(targets, found, "; of one-hot targets, targets.argmax(1)")
    counted = (targets != _IGNORED).reshape(len(found), -1)
    if not counted.any(1).all():
        sample = int(counted.any(1).int().argmin())
        raise ValueError(f"sample {sample} of the batch has no target but {_IGNORED} (left out)")
    right = (found == targets).reshape(len(found), -1) & counted
    return right.float().sum(1) / counted.sum(1)


def class_axis(logits: Tensor) -> int:
    """Give the axis of the classes, where no targets tell.

    That is the last of (batch, classes) and of (batch, time, vocabulary), and 1 of
    (batch, classes, height, width).
    """
    return 1 if logits.ndim > 3 else -1


def agreement(outputs: Any, targets: Any) -> Tensor:
    """Score 1 where the largest logit is the float model's: of data without labels.

    Args:
        outputs: A tensor of shape (batch, classes), (batch, time, classes) or (batch, classes,
            height, width), or what holds tensors: its `logits` count, or the first of two axes or
            more.
        targets: The same of the float model.

    Returns:
        Shape (batch,), in [0, 1]; averaged over a sample's positions.

    Raises:
        ValueError: There are no two classes to choose from.
    """
    found, expected = _compared(outputs), _compared(targets)
    axis = class_axis(expected)
    return _found(found, expected.argmax(axis), axis)


def cosine(outputs: Any, targets: Any) -> Tensor:
    """Score the cosine similarity with the float model's outputs: of data without labels.

    Args:
        outputs: A tensor of shape (batch, ...), or what holds several: the least similar counts,
            those that start with other than the first one's samples as a whole.
        targets: The same of the float model.

    Returns:
        Shape (batch,), in [-1, 1]; 1 where both are zero.
    """
    wanted = _floats(targets)
    pairs = zip(_floats(outputs), wanted, strict=True)
    samples = next((len(item) for item in wanted if item.ndim), 1)
    return torch.stack([_cosine(found, expected, samples) for found, expected in pairs]).amin(0)


def _cosine(found: Tensor, expected: Tensor, samples: int) -> Tensor:
    rows = samples if expected.ndim and len(expected) == samples else 1
    one, other = (item.double().reshape(rows, -1) for item in (found, expected))
    alike = (one == other).all(1)  # also where both are zero
    return torch.where(alike, 1.0, cosine_similarity(one, other, dim=1)).expand(samples)


def _scored(outputs: Any) -> Tensor:
    """The tensor that a metric of one tensor reads.

    Raises:
        ValueError: There are several of floats, none of them called `logits`.
    """
    if isinstance(outputs, Tensor):
        return outputs
    named = _logits(outputs)
    floats = _floats(outputs) if named is None else [named]
    if len(floats) != 1:
        raise ValueError(
            f"the outputs hold {len(floats)} tensors of floats, none of them called 'logits'; give "
            "a function that takes one, as lambda outputs, targets: "
            "aq.metrics.accuracy(outputs[0], targets)"
        )
    return floats[0]


def _compared(outputs: Any) -> Tensor:
    """The tensor of classes among what a model returns: a loss may stand before it."""
    named = _logits(outputs)
    found = _floats(outputs) if named is None else [named]
    return next((item for item in found if item.ndim > 1), found[0])


def _logits(outputs: Any) -> Tensor | None:
    """What a model that returns several things calls its logits."""
    named = outputs.get("logits") if isinstance(outputs, Mapping) else None
    named = getattr(outputs, "logits", named)
    return named if isinstance(named, Tensor) else None


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


def top5(outputs: Any, targets: Tensor) -> Tensor:
    """Score 1 where the target is among the five largest logits.

    Args:
        outputs: Shape (batch, classes), or what holds tensors, as `accuracy` takes it.
        targets: Shape (batch,), class indices.

    Returns:
        Shape (batch,), 0 or 1.

    Raises:
        ValueError: The targets are no class indices, or the outputs hold several tensors.
    """
    logits = _scored(outputs)
    _check_shapes(targets, logits[:, 0])
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(1).float()


def mse(outputs: Any, targets: Tensor) -> Tensor:
    """Score minus the mean squared error, so that higher is better.

    Args:
        outputs: Shape (batch, ...), or what holds one tensor of floats.
        targets: The same shape.

    Returns:
        Shape (batch,), at most 0.

    Raises:
        ValueError: The targets have another shape, or the outputs hold several tensors.
    """
    found = _scored(outputs)
    _check_shapes(targets, found)
    return -((found - targets) ** 2).reshape(len(found), -1).mean(1)
