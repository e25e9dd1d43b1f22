"""Data as the user gives it -> batches of positional inputs and targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from autoquant.errors import DataError

DEFAULT_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One batch.

    Attributes:
        inputs: Positional inputs of the model; the first dimension of each is samples.
        targets: What the metric compares with; None where the data have none.
    """

    inputs: tuple[Tensor, ...]
    targets: Any = None

    def __len__(self) -> int:
        return len(self.inputs[0])


def read_batches(data: object, name: str, *, needs_targets: bool) -> tuple[Batch, ...]:
    """Read and check data: `(inputs, targets)` tensors, a list of batches, or a DataLoader.

    A batch is `inputs`, or `(inputs, targets)`; `inputs` is a tensor or a tuple of tensors. Bare
    tensors are split into batches of 64.

    Args:
        data: What the user gave.
        name: What to call it in errors (`calibration`, `evaluation`, `heldout`).
        needs_targets: Whether a batch without targets is an error.

    Raises:
        DataError: Nothing there, or a batch is empty, not finite or of another shape; names it.
    """
    if isinstance(data, Tensor):
        data = [(part,) for part in data.split(DEFAULT_BATCH_SIZE)] if data.ndim else [(data,)]
    elif _is_pair_of_tensors(data):
        data = list(_split(*data, name=name))
    if not isinstance(data, Iterable):
        raise DataError(
            f"{name}: got {type(data).__name__}",
            hint="give (inputs, targets) tensors, a list of batches, or a DataLoader",
        )
    batches = tuple(_read_batches(data, name))
    _check(batches, name, needs_targets=needs_targets)
    return batches


def stream_batches(data: object, name: str, *, needs_targets: bool) -> Iterator[Batch]:
    """Read what `read_batches` reads one batch after the other, each checked as it comes.

    Batches of an iterable are not kept.

    Raises:
        DataError: A batch is unusable, or lacks targets that are needed; names it.
    """
    if isinstance(data, Tensor) or _is_pair_of_tensors(data) or not isinstance(data, Iterable):
        yield from read_batches(data, name, needs_targets=needs_targets)
        return
    first: Batch | None = None
    for index, batch in enumerate(_read_batches(data, name)):
        first = batch if first is None else first
        _check_batch(batch, first, f"{name} batch {index}", needs_targets=needs_targets)
        yield batch


def take_samples(batches: Sequence[Batch], count: int) -> tuple[Batch, ...]:
    """Keep the first `count` samples, cutting the last batch where needed."""
    kept: list[Batch] = []
    for batch in batches:
        if count <= 0:
            break
        kept.append(batch if len(batch) <= count else _cut(batch, count))
        count -= len(kept[-1])
    return tuple(kept)


def _cut(batch: Batch, count: int) -> Batch:
    targets = batch.targets
    if targets is not None and hasattr(targets, "__getitem__"):
        targets = targets[:count]
    return Batch(tuple(item[:count] for item in batch.inputs), targets)


def repeat_to(inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """The first `count` samples of a batch, repeated where they are too few."""
    times = -(-count // len(inputs[0]))
    return tuple(torch.cat([item] * times)[:count] for item in inputs)


def _is_pair_of_tensors(data: object) -> TypeGuard[tuple[Any, Tensor]]:
    return (
        isinstance(data, tuple)
        and len(data) == 2
        and isinstance(data[1], Tensor)
        and (isinstance(data[0], Tensor) or _is_tensors(data[0]))
    )


def _is_tensors(value: object) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) > 0
        and all(isinstance(item, Tensor) for item in value)
    )


def _split(inputs: Any, targets: Tensor, name: str) -> Iterable[tuple[Any, Tensor]]:
    columns = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    lengths = [item.shape[0] if item.ndim else 0 for item in (*columns, targets)]
    if len(set(lengths)) != 1:
        raise DataError(
            f"{name}: inputs and targets have {' and '.join(map(str, lengths))} samples",
            hint="give as many targets as inputs",
        )
    for start in range(0, lengths[0], DEFAULT_BATCH_SIZE):
        part = slice(start, start + DEFAULT_BATCH_SIZE)
        yield tuple(item[part] for item in columns), targets[part]


def _read_batches(data: Iterable[object], name: str) -> Iterator[Batch]:
    """Read one batch after the other; what the user's loader raises is its own error."""
    items, index = iter(data), 0
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(
                f"{name} batch {index} cannot be read: {type(error).__name__}: {error}",
                hint="iterate over the data on their own to see the whole error",
            ) from error
        yield _read_batch(item, f"{name} batch {index}")
        index += 1


def _read_batch(item: object, where: str) -> Batch:
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        return Batch((item,))
    if isinstance(item, (tuple, list)) and len(item) == 1:
        return Batch(_read_inputs(item[0], where))
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return Batch(_read_inputs(item[0], where), item[1])
    raise DataError(
        f"{where}: got {type(item).__name__}"
        + (f" of {len(item)} items" if isinstance(item, (tuple, list)) else ""),
        hint="a batch is inputs or (inputs, targets), in tensors; several inputs go in a tuple",
    )


def _read_inputs(value: object, where: str) -> tuple[Tensor, ...]:
    if isinstance(value, Tensor):
        return (value,)
    if _is_tensors(value):
        return tuple(value)  # type: ignore[arg-type]
    raise DataError(
        f"{where}: inputs are a {type(value).__name__}, not a tensor",
        hint="convert them with torch.as_tensor; several inputs go in a tuple of tensors",
    )


def _check(batches: Sequence[Batch], name: str, *, needs_targets: bool) -> None:
    if not batches:
        raise DataError(f"{name}: no batches", hint="give at least one batch")
    for index, batch in enumerate(batches):
        _check_batch(batch, batches[0], f"{name} batch {index}", needs_targets=needs_targets)


def _check_batch(batch: Batch, first: Batch, where: str, *, needs_targets: bool) -> None:
    """Refuse a batch that is empty, not finite, or unlike the first one."""
    shapes = tuple(item.shape[1:] for item in first.inputs)
    if any(item.ndim == 0 for item in batch.inputs) or len(batch) == 0:
        raise DataError(f"{where} is empty", hint="drop it, or give it samples")
    if any(len(item) != len(batch) for item in batch.inputs):
        raise DataError(
            f"{where}: its inputs have different numbers of samples",
            hint="the first dimension of every input counts samples",
        )
    found = tuple(item.shape[1:] for item in batch.inputs)
    if found != shapes:
        raise DataError(
            f"{where} has samples of shape {_show(found)}, batch 0 of {_show(shapes)}",
            hint="give every batch samples of one shape",
        )
    dtypes = [item.dtype for item in batch.inputs]
    if dtypes != [item.dtype for item in first.inputs]:
        raise DataError(
            f"{where} is of dtype {_show_types(batch)}, batch 0 of {_show_types(first)}",
            hint="give every batch inputs of one dtype",
        )
    for item in batch.inputs:
        if item.is_floating_point() and not torch.isfinite(item).all():
            raise DataError(
                f"{where} holds NaN or infinity",
                hint="clean the data, or mend what prepares them",
            )
    if needs_targets and batch.targets is None:
        raise DataError(f"{where} has no targets", hint="give (inputs, targets), for the metric")
    if isinstance(batch.targets, Tensor) and batch.targets.shape[:1] != (len(batch),):
        count = batch.targets.shape[0] if batch.targets.ndim else 1
        raise DataError(
            f"{where}: {len(batch)} inputs but {count} targets",
            hint="give as many targets as inputs",
        )


def _show_types(batch: Batch) -> str:
    return ", ".join(str(item.dtype).removeprefix("torch.") for item in batch.inputs)


def _show(shapes: tuple[torch.Size, ...]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
