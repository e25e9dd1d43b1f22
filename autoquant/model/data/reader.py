"""Data as the user gives them -> batches of flat tensors, all called the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset

from autoquant.errors import AutoquantError, DataError
from autoquant.model.data.arguments import Arguments, Parameters
from autoquant.model.data.batches import Batch
from autoquant.model.data.calling import Calling, failing
from autoquant.model.data.columns import as_columns
from autoquant.model.data.data_set import (
    Mark,
    StreamedBatches,
    can_be_read_again,
    plan_source,
    size_of,
)
from autoquant.model.data.outputs import without_opaque
from autoquant.model.data.readings import DataForm, Reading, find_reading, is_whole

DEFAULT_BATCH_SIZE = 64
_OF_SINGLE = "of single samples DataLoader(samples, batch_size=64) makes batches"


class DataReader:
    """Reads the data sets of one model: their batches must all be called the same way.

    Data are all samples at once (a tensor, `(inputs, targets)`, a mapping of tensors), which are
    split into batches of 64; or something to iterate over that gives batches (a list, a
    DataLoader); a dataset of samples; or a function that returns any of these. Arrays, lists of
    numbers and pandas' columns stand for tensors that hold all samples. What a batch is,
    `find_reading` says.

    Args:
        model: Its forward says what inputs are.
        form: What the user says of the form of the data.
        calling: How the model is called with other data, where these must be called the same way.
        against_float: Whether the targets that are needed are the model's own outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        form: DataForm | None = None,
        calling: Calling | None = None,
        *,
        against_float: bool = False,
    ) -> None:
        self._form = form or DataForm()
        self._model = model
        self._parameters = Parameters.of(model)
        self._calling = calling
        self._against_float = against_float
        self._source = "the other data"
        self._sizes: list[list[set[int]]] = []
        self._named: set[tuple[int, int]] = set()

    @property
    def calling(self) -> Calling:
        """How the model is called with what was read."""
        if self._calling is None:
            raise ValueError("no data were read yet")
        return self._calling

    @property
    def dynamic(self) -> tuple[tuple[int, ...], ...]:
        """By input, the axes whose size may change: that of samples, named ones, and those seen."""
        return tuple(
            tuple(
                axis
                for axis, seen in enumerate(sizes)
                if len(seen) > 1 or (place, axis) in self._named
            )
            for place, sizes in enumerate(self._sizes)
        )

    def read(self, data: object, name: str, *, needs_targets: bool) -> Sequence[Batch]:
        """Read and check data; what is larger than the cache is read again for each use.

        What is in memory already (tensors, lists of them), or can be read once alone, is kept.

        Args:
            data: What the user gave.
            name: What to call them in errors (`calibration`, `evaluation`, `heldout`).
            needs_targets: Whether a batch without targets is an error.
        """
        source = plan_source(as_columns(data))
        fits = self._is_in_memory(source) or not can_be_read_again(source)
        kept: list[Batch] = []
        marks: list[Mark] = []
        room = self._form.cache_bytes
        for batch in self.stream(source, name, needs_targets=needs_targets):
            room -= 0 if fits else size_of(batch)
            if not fits:
                marks.append(Mark.of(batch))
            if room >= 0 or not kept:
                kept.append(batch)
            elif len(kept) > 1:
                del kept[1:]
        if not kept:
            raise DataError(f"{name}: no batches", hint="give at least one batch")
        if room >= 0:
            return tuple(kept)
        again = partial(self.stream, name=name, needs_targets=needs_targets)
        return StreamedBatches(source, again, kept[0], marks, name)

    def _is_in_memory(self, source: object) -> bool:
        listed = is_whole(source, self._parameters) or isinstance(source, (list, tuple))
        return listed and self._form.prepare is None

    def stream(self, data: object, name: str, *, needs_targets: bool) -> Iterator[Batch]:
        """Read what `read` reads one batch after the other, each checked as it comes.

        Raises:
            DataError: A batch is unusable, or lacks targets that are needed; names it.
        """
        first: Batch | None = None
        answers = needs_targets and self._against_float
        for index, batch in enumerate(self._batches(data, name, needs_targets and not answers)):
            first = batch if first is None else first
            _check_batch(batch, first, f"{name} batch {index}")
            self._note_sizes(batch)
            yield self._answered(batch, f"{name} batch {index}") if answers else batch

    def _batches(self, data: object, name: str, needs_targets: bool) -> Iterator[Batch]:
        if callable(data) and not isinstance(data, Iterable):
            data = as_columns(_called(data, name))
        if is_whole(data, self._parameters) and self._form.prepare is None:
            whole = self._read_item(data, name, needs_targets)
            _check_targets(whole, name)
            yield from whole.parts(DEFAULT_BATCH_SIZE)
            return
        for index, item in enumerate(_items(data, name, self._parameters)):
            yield self._read_item(item, f"{name} batch {index}", needs_targets)

    def _read_item(self, item: object, where: str, needs_targets: bool) -> Batch:
        reading = self._reading(item, where, needs_targets)
        if self._calling is None:
            self._source = where
            self._calling, tensors = Calling.of_arguments(
                reading.arguments, self._parameters, where
            )
            self._check_names()
        else:
            arguments = self._calling.like(reading.arguments, self._parameters)
            tensors = self._calling.tensors(arguments, where, self._source)
        if isinstance(item, Batch) and item.axes is not None:
            return Batch(tensors, reading.targets, item.axes)
        return Batch(tensors, reading.targets, self._axes(tensors, where))

    def _reading(self, item: object, where: str, needs_targets: bool) -> Reading:
        if isinstance(item, Batch):
            return Reading(Arguments(item.inputs), item.targets)
        if self._form.prepare is not None:
            try:
                item = self._form.prepare(item)
            except Exception as error:
                raise DataError(
                    f"{where}: `prepare` failed: {type(error).__name__}: {error}",
                    hint="it is called with one item of the data, and returns inputs or "
                    "(inputs, targets)",
                ) from error
        return find_reading(
            item,
            self._parameters,
            where,
            target=self._form.target,
            needs_targets=needs_targets,
            given=None if self._calling is None else self._calling.argument_names(self._parameters),
            runs=self._runs,
        )

    def _runs(self, arguments: Arguments) -> bool:
        """Whether the model can be called so; on copies, since forward may write into them."""
        try:
            calling, tensors = Calling.of_arguments(arguments, self._parameters)
            self._call(calling, tensors)
        except Exception:  # noqa: BLE001  whatever a model raises, it cannot be called so
            return False
        return True

    def _call(self, calling: Calling, tensors: Sequence[Tensor]) -> Any:
        with torch.no_grad():
            return calling.call(self._model, tuple(item.clone() for item in tensors))

    def _answered(self, batch: Batch, where: str) -> Batch:
        """A batch whose targets are the model's outputs; of a cache of keys and values, nothing."""
        with failing("the model", where, batch.inputs):
            outputs = self._call(self.calling, batch.inputs)
        return Batch(batch.inputs, without_opaque(outputs), batch.axes)

    def _check_names(self) -> None:
        names = self.calling.names
        for name in self._form.dynamic:
            if name not in names:
                raise DataError(
                    f"dynamic: the model has no input {name!r}",
                    hint=f"its inputs are {', '.join(names)}",
                )

    def _axes(self, tensors: Sequence[Tensor], where: str) -> tuple[int | None, ...]:
        """By input, the axis that counts samples: the first named one, else the first."""
        samples: int | None = None
        axes: list[int | None] = []
        for place, (name, tensor) in enumerate(zip(self.calling.names, tensors, strict=True)):
            named = self._named_axes(name, tensor, where)
            self._named |= {(place, axis) for axis in named}
            axis = named[0] if named else 0
            counts = tensor.ndim > axis and (samples is None or tensor.shape[axis] == samples)
            if counts and samples is None:
                samples = tensor.shape[axis]
            axes.append(axis if counts else None)
            if counts:
                self._named.add((place, axis))
        return tuple(axes)

    def _named_axes(self, name: str, tensor: Tensor, where: str) -> list[int]:
        axes = list(self._form.dynamic.get(name, ()))
        for axis in axes:
            if not -tensor.ndim <= axis < tensor.ndim:
                raise DataError(
                    f"dynamic: {name} has no axis {axis}; in {where} its shape is "
                    f"{tuple(tensor.shape)}",
                    hint="axes are numbered from 0",
                )
        return [axis % tensor.ndim for axis in axes]

    def _note_sizes(self, batch: Batch) -> None:
        if not self._sizes:
            self._sizes = [[set() for _ in item.shape] for item in batch.inputs]
        for seen, item in zip(self._sizes, batch.inputs, strict=True):
            for sizes, size in zip(seen, item.shape, strict=False):
                sizes.add(size)


def _called(function: Callable[[], object], name: str) -> object:
    """What the user's function gives; what it raises is its own error."""
    try:
        return function()
    except AutoquantError:
        raise
    except Exception as error:
        raise DataError(
            f"{name}: the function failed: {type(error).__name__}: {error}",
            hint="it is called without arguments; call it on its own to see the whole error",
        ) from error


def _items(data: object, name: str, parameters: Parameters) -> Iterator[object]:
    """Items of the data one after the other; what the user's loader raises is its own error."""
    if is_whole(data, parameters):
        yield from _split(data)
        return
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        data = DataLoader(data, DEFAULT_BATCH_SIZE)
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        raise DataError(
            f"{name}: got {type(data).__name__}",
            hint="give (inputs, targets) tensors, a list of batches, a DataLoader, or a function "
            "that returns one of these",
        )
    items: Iterator[object] | None = None
    for index in count():
        try:
            items = iter(data) if items is None else items
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(
                f"{name} batch {index} cannot be read: {type(error).__name__}: {error}",
                hint="iterate over the data on their own to see the whole error",
            ) from error
        yield item


def _split(data: Any) -> Iterator[object]:
    """All samples at once, in parts that `prepare` is given."""
    columns, structure = pytree.tree_flatten(data)
    for start in range(0, len(columns[0]), DEFAULT_BATCH_SIZE):
        end = start + DEFAULT_BATCH_SIZE
        part = [None if column is None else column[start:end] for column in columns]
        yield pytree.tree_unflatten(part, structure)


def _check_batch(batch: Batch, first: Batch, where: str) -> None:
    """Refuse a batch that is empty, not finite, or unlike the first one."""
    if len(batch) == 0 or any(item.numel() == 0 for item in batch.inputs):
        raise DataError(f"{where} is empty", hint="drop it, or give it samples")
    for item, before in zip(batch.inputs, first.inputs, strict=True):
        if item.ndim != before.ndim:
            raise DataError(
                f"{where} has inputs of shape {_shapes(batch)}, batch 0 of {_shapes(first)}",
                hint="give every batch inputs of as many dimensions",
            )
    dtypes = [item.dtype for item in batch.inputs]
    if dtypes != [item.dtype for item in first.inputs]:
        raise DataError(
            f"{where} is of dtype {_show_types(batch)}, batch 0 of {_show_types(first)}",
            hint="give every batch inputs of one dtype",
        )
    for item in batch.inputs:
        if item.is_floating_point() and not _is_usable(item):
            raise DataError(
                f"{where} holds NaN or infinity",
                hint="clean the data, or mend what prepares them",
            )
    _check_targets(batch, where)


def _is_usable(item: Tensor) -> bool:
    """Whether values are finite, or those of an additive mask: 0 and minus infinity."""
    if bool(torch.isfinite(item).all()):
        return True
    return bool(((item == 0) | (item == -torch.inf)).all())


def _check_targets(batch: Batch, where: str) -> None:
    """Refuse as many targets as no input has samples; metrics know other kinds of targets."""
    if isinstance(batch.targets, (bool, int, float)) and len(batch) > 1:
        raise DataError(
            f"{where}: {len(batch)} inputs but one number as targets",
            hint=_OF_SINGLE,
        )
    plain = all(axis == 0 for axis in batch.sample_axes)
    if plain and isinstance(batch.targets, Tensor) and batch.targets.shape[:1] != (len(batch),):
        found = batch.targets.shape[0] if batch.targets.ndim else 1
        if len(batch.inputs) == found > 1:
            raise DataError(
                f"{where}: the model takes its {found} samples as so many tensors, and samples are "
                "counted along an axis of a tensor",
                hint="give them stacked, to a module whose forward(images) calls the model with "
                "list(images); what loops over samples is searched module by module, on torch",
            )
        raise DataError(
            f"{where}: {len(batch)} inputs but {found} targets",
            hint="give as many targets as inputs" if batch.targets.ndim else _OF_SINGLE,
        )


def _show_types(batch: Batch) -> str:
    return ", ".join(str(item.dtype).removeprefix("torch.") for item in batch.inputs)


def _shapes(batch: Batch) -> str:
    return ", ".join(str(tuple(item.shape)) for item in batch.inputs)
