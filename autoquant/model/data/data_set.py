"""Data that are read again for each use, where they are too large to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from autoquant.errors import DataError
from autoquant.model.data.batches import Batch

CACHE_BYTES = 256 << 20
"""A data set whose batches are larger together is read again for each use."""

Read = Callable[[object], Iterator[Batch]]
"""Reads the batches that a source gives."""

Shapes = tuple[tuple[int, ...], ...]
"""Of the inputs of a batch."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells a batch from others, at little cost.

    Attributes:
        samples: In it.
        shapes: Of its inputs.
        sums: Of their values.
    """

    samples: int
    shapes: Shapes
    sums: tuple[float, ...]

    @classmethod
    def of(cls, batch: Batch) -> Mark:
        """Mark a batch."""
        return cls(
            len(batch),
            tuple(tuple(item.shape) for item in batch.inputs),
            tuple(float(item.double().nan_to_num().sum()) for item in batch.inputs),
        )


class StreamedBatches(Sequence[Batch]):
    """Batches that are read again whenever they are gone through; the first one is kept.

    Args:
        source: Gives the same batches each time.
        read: Reads them.
        first: The first batch.
        marks: Of every batch.
        name: What to call the data in errors.
    """

    def __init__(
        self, source: object, read: Read, first: Batch, marks: Sequence[Mark], name: str
    ) -> None:
        self._source = source
        self._read = read
        self._first = first
        self._marks = tuple(marks)
        self._name = name

    @property
    def can_reorder(self) -> bool:
        """Whether the batches can be read in another order at the same cost."""
        return isinstance(self._source, (PlannedLoader, list, tuple))

    @property
    def shapes(self) -> tuple[Shapes, ...]:
        """Shapes of the inputs of each batch."""
        return tuple(mark.shapes for mark in self._marks)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each batch."""
        return tuple(mark.samples for mark in self._marks)

    def __len__(self) -> int:
        return len(self._marks)

    def __iter__(self) -> Iterator[Batch]:
        return self.in_order(range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        """One batch, or the list of some; all but the first are read for it."""
        places = range(len(self))[index]
        if isinstance(places, range):
            wanted = set(places)
            return [batch for place, batch in enumerate(self) if place in wanted]
        if places == 0:
            return self._first
        if self.can_reorder:
            return next(self.in_order([places]))
        return next(batch for place, batch in enumerate(self) if place == places)

    def in_order(self, places: Sequence[int]) -> Iterator[Batch]:
        """The batches at some places; in ascending order where the source cannot be reordered.

        Raises:
            DataError: A batch is another one than before.
        """
        source = self._source
        if self.can_reorder:
            source = self._source_at(places)
        elif list(places) != list(range(len(self))):
            raise ValueError("this source gives its batches in one order alone")
        count = 0
        for place, batch in zip(places, self._read(source), strict=False):
            if Mark.of(batch) != self._marks[place]:
                raise self._changed(place)
            count += 1
            yield batch
        if count < len(places):
            raise self._changed(places[count])

    def some(self, places: Sequence[int]) -> StreamedBatches:
        """The batches at some places, in ascending order, streamed as well."""
        marks = [self._marks[place] for place in places]
        source = self._source_at(places)
        return StreamedBatches(source, self._read, self[places[0]], marks, self._name)

    def _source_at(self, places: Sequence[int]) -> object:
        """A source of some batches alone; in ascending order where it cannot be reordered."""
        source = self._source
        if isinstance(source, PlannedLoader):
            return source.at(places)
        if isinstance(source, (list, tuple)):
            return [source[place] for place in places]
        return _Some(source, frozenset(places))

    def _changed(self, place: int) -> DataError:
        return DataError(
            f"{self._name} batch {place} is another one than when the data were first read",
            hint="give the same batches each time: without shuffling and random augmentation, or "
            "seeded at the start of each pass",
        )


class _Some:
    """Some items of what can be iterated over anew, or of what a function gives."""

    def __init__(self, source: Any, places: frozenset[int]) -> None:
        self._source = source
        self._places = places

    def __iter__(self) -> Iterator[Any]:
        items = self._source if isinstance(self._source, Iterable) else self._source()
        return (item for place, item in enumerate(items) if place in self._places)


class PlannedLoader:
    """A DataLoader that draws its batches once, and gives the same ones each time."""

    def __init__(self, loader: DataLoader[Any], plan: list[list[int]]) -> None:
        self._loader = loader
        self._plan = plan

    def __iter__(self) -> Iterator[Any]:
        loader = self._loader
        again: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=self._plan,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator(),
        )
        return iter(again)

    def at(self, places: Sequence[int]) -> PlannedLoader:
        """The same with the batches at some places."""
        return PlannedLoader(self._loader, [self._plan[place] for place in places])


def plan_source(data: object) -> object:
    """A source that gives the same batches each time: a plain DataLoader draws its batches once."""
    if not isinstance(data, DataLoader) or type(data).__iter__ is not DataLoader.__iter__:
        return data
    if data.batch_sampler is None or isinstance(data.dataset, IterableDataset):
        return data
    return PlannedLoader(data, [list(places) for places in data.batch_sampler])


def can_be_read_again(source: object) -> bool:
    """Whether a source gives its batches anew: not a generator or another iterator."""
    return not isinstance(source, Iterator)


def size_of(batch: Batch) -> int:
    """Bytes of a batch's inputs, and of targets that are tensors."""
    items = [*batch.inputs, *([batch.targets] if isinstance(batch.targets, Tensor) else [])]
    return sum(item.numel() * item.element_size() for item in items)


def sizes_of(batches: Sequence[Batch]) -> tuple[int, ...]:
    """Samples of each batch; without reading data that are streamed."""
    if isinstance(batches, StreamedBatches):
        return batches.sizes
    return tuple(map(len, batches))


def shapes_of(batches: Sequence[Batch]) -> tuple[Shapes, ...]:
    """Shapes of the inputs of each batch; without reading data that are streamed."""
    if isinstance(batches, StreamedBatches):
        return batches.shapes
    return tuple(tuple(tuple(item.shape) for item in batch.inputs) for batch in batches)


def in_order(batches: Sequence[Batch], places: Sequence[int]) -> Iterator[Batch]:
    """The batches at some places, one after the other."""
    if isinstance(batches, StreamedBatches):
        return batches.in_order(places)
    return (batches[place] for place in places)


class InputsOf(Sequence[tuple[Tensor, ...]]):
    """The inputs of batches, read as the batches are."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (batch.inputs for batch in self._batches)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[Tensor, ...]]: ...

    def __getitem__(self, index: int | slice) -> tuple[Tensor, ...] | Sequence[tuple[Tensor, ...]]:
        """Inputs of one batch, or of some."""
        if isinstance(index, slice):
            return [batch.inputs for batch in self._batches[index]]
        return self._batches[index].inputs


def pick_samples(batches: Sequence[Batch], indices: Sequence[int]) -> tuple[Batch, ...]:
    """Keep the samples at some places, in the order of the data set; doubles count once."""
    count = sum(sizes_of(batches))
    outside = [index for index in indices if not 0 <= index < count]
    if outside or not indices:
        raise DataError(
            f"no sample {outside[0]} among {count}" if outside else "no sample is chosen",
            hint=f"samples are numbered from 0 to {count - 1}",
        )
    return tuple(_picked(batches, sorted(set(indices))))


def _picked(batches: Sequence[Batch], indices: Sequence[int]) -> Iterator[Batch]:
    start = 0
    for batch in batches:
        places = [index - start for index in indices if start <= index < start + len(batch)]
        start += len(batch)
        if places:
            yield batch.pick(places)
