"""Chosen samples of a data set, by their places in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from autoquant.errors import DataError
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import sizes_of


def pick_samples(batches: Sequence[Batch], indices: Sequence[int]) -> tuple[Batch, ...]:
    """Keep the samples at some places, in the order of the data set; doubles count once.

    Raises:
        DataError: There is no such place, none is given, or a batch cannot be taken apart.
    """
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
