"""Batches of flat inputs and targets, and the samples in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoquant.errors import DataError

Places = slice | list[int]
"""Samples of a batch: from one to another, or one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One batch.

    Attributes:
        inputs: The tensors of the model's inputs, in the order of its calling.
        targets: What the metric compares with; None where the data have none.
        axes: By input, the axis that counts samples, None where there is none (a timestep, the
            edges of a graph); None for all: the first axis of each.
    """

    inputs: tuple[Tensor, ...]
    targets: Any = None
    axes: tuple[int | None, ...] | None = None

    def __len__(self) -> int:
        """Samples: what the first input that counts them has; 1 where none does."""
        counted = zip(self.inputs, self.sample_axes, strict=True)
        return next((item.shape[axis] for item, axis in counted if axis is not None), 1)

    @property
    def sample_axes(self) -> tuple[int | None, ...]:
        """By input, the axis that counts samples."""
        if self.axes is not None:
            return self.axes
        return tuple(0 if item.ndim else None for item in self.inputs)

    @property
    def is_divisible(self) -> bool:
        """Whether samples can be taken out: not where an input of several values has no axis."""
        return all(
            axis is not None or item.numel() == 1
            for item, axis in zip(self.inputs, self.sample_axes, strict=True)
        )

    @property
    def sample_shapes(self) -> tuple[tuple[int, ...], ...]:
        """By input, its shape without the axis that counts samples."""
        return tuple(
            tuple(size for place, size in enumerate(item.shape) if place != axis)
            for item, axis in zip(self.inputs, self.sample_axes, strict=True)
        )

    def head(self, count: int) -> Batch:
        """The first `count` samples; all of them where they cannot be taken apart."""
        if count >= len(self) or not self.is_divisible:
            return self
        return self.pick(slice(0, count))

    def pick(self, places: Places) -> Batch:
        """The samples at some places."""
        if not self.is_divisible:
            raise DataError(
                "the inputs of a batch cannot be taken apart by sample: one of them has no axis "
                "that counts samples",
                hint="name it by `dynamic`, or give batches of one sample",
            )
        inputs = tuple(
            item if axis is None else item[(slice(None),) * axis + (places,)]
            for item, axis in zip(self.inputs, self.sample_axes, strict=True)
        )
        return Batch(inputs, _pick_targets(self.targets, places, len(self)), self.axes)

    def parts(self, size: int) -> Iterator[Batch]:
        """The batch in parts of `size` samples, in order; whole where it cannot be taken apart."""
        if size >= len(self) or not self.is_divisible:
            yield self
            return
        for start in range(0, len(self), size):
            yield self.pick(slice(start, start + size))


def take_samples(batches: Sequence[Batch], count: int | None) -> Sequence[Batch]:
    """Keep the first `count` samples, cutting the last batch where needed; None: all."""
    return batches if count is None else tuple(first_samples(batches, count))


def first_samples(batches: Iterable[Batch], count: int | None) -> Iterator[Batch]:
    """The first `count` samples, batch by batch; None: all."""
    for batch in batches:
        if count is None:
            yield batch
        elif count <= 0:
            return
        else:
            yield batch.head(count)
            count -= min(count, len(batch))


def join_batches(batches: Sequence[Batch]) -> Batch:
    """One batch, without targets, of those that have samples of the first one's shape."""
    first = batches[0]
    alike = [batch.inputs for batch in batches if batch.sample_shapes == first.sample_shapes]
    if len(alike) == 1 or not first.is_divisible:
        return Batch(first.inputs, axes=first.axes)
    inputs = tuple(
        column[0] if axis is None else torch.cat(column, axis)
        for column, axis in zip(zip(*alike, strict=True), first.sample_axes, strict=True)
    )
    return Batch(inputs, axes=first.axes)


def repeat_to(batch: Batch, count: int) -> Batch:
    """The first `count` samples of a batch, without targets, repeated where they are too few."""
    if not batch.is_divisible:
        return Batch(batch.inputs, axes=batch.axes)
    times = -(-count // len(batch))
    inputs = tuple(
        item if axis is None else torch.cat([item] * times, axis)
        for item, axis in zip(batch.inputs, batch.sample_axes, strict=True)
    )
    return Batch(inputs, axes=batch.axes).head(count)


def _pick_targets(targets: Any, places: Places, count: int) -> Any:
    """Targets of some samples: rows of a tensor, items of a list, or each of what holds these."""
    if targets is None:
        return None
    if isinstance(targets, Tensor):
        axis = next((at for at, size in enumerate(targets.shape[:2]) if size == count), None)
        if axis is not None:
            return targets[(slice(None),) * axis + (places,)]
    elif _is_by_sample(targets, count):
        chosen = range(count)[places] if isinstance(places, slice) else places
        return [targets[place] for place in chosen]
    else:
        if isinstance(targets, Mapping) and type(targets) not in pytree.SUPPORTED_NODES:
            targets = dict(targets)
        parts, structure = pytree.tree_flatten(targets, is_leaf=lambda item: item is not targets)
        if not structure.is_leaf():
            picked = [_pick_targets(item, places, count) for item in parts]
            return pytree.tree_unflatten(picked, structure)
    raise DataError(
        f"targets of the type {type(targets).__name__} cannot be taken apart by sample",
        hint="give targets as tensors, lists, or mappings of these, one for each sample",
    )


def _is_by_sample(targets: Any, count: int) -> bool:
    """Whether a list or tuple holds an item for each sample, and not columns of all samples."""
    if not isinstance(targets, Sequence) or isinstance(targets, str) or len(targets) != count:
        return False
    return isinstance(targets, list) or not all(isinstance(item, Tensor) for item in targets)
