"""Training data: read anew each epoch, in an order that the seed decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from autoquant.errors import DataError
from autoquant.model.data.batches import Batch
from autoquant.model.data.reader import DEFAULT_BATCH_SIZE, DataReader

NAME = "training"
"""What training data are called in errors."""

_EPOCHS = 1_000_003
"""Seeds are this far apart, so that no two share an epoch's."""


class TrainingData:
    """Batches without end, the same ones for the same seed.

    While they are read, torch's global generator (and that of a DataLoader) is seeded from the seed
    and the epoch's number, so that a training that goes on in another process sees what it would
    have seen; afterwards it is as it was. Randomness from elsewhere (numpy, a generator of the
    data set's own) is not under control.

    Args:
        source: A DataLoader, a list of batches, or any object that can be iterated over again and
            again; or a pair of tensors, which is shuffled in batches of 64.
        seed: Of the order, and of augmentation by torch.
        reader: Of the other data: a batch must be called as theirs are.

    Raises:
        DataError: It can be read once only, or not at all.
    """

    def __init__(self, source: object, seed: int, reader: DataReader) -> None:
        if isinstance(source, tuple) and len(source) == 2 and _are_tensors(source):
            source = DataLoader(_paired(*source), DEFAULT_BATCH_SIZE, shuffle=True)
        if not isinstance(source, Iterable):
            raise DataError(
                f"{NAME}: got {type(source).__name__}",
                hint="give (inputs, targets) tensors, a list of batches, or a DataLoader",
            )
        if isinstance(source, Iterator):
            raise DataError(
                f"{NAME}: a {type(source).__name__} can be read once only",
                hint="give a list, a DataLoader, or an object whose __iter__ starts anew",
            )
        self._source: Iterable[object] = source
        self._seed = seed
        self._reader = reader

    def first(self) -> Batch:
        """The first batch of the first epoch.

        Raises:
            DataError: There is none, or it is unusable.
        """
        return next(self.batches())

    def batches(self, skip: int = 0) -> Iterator[Batch]:
        """Give batch after batch, epoch after epoch.

        Args:
            skip: How many to leave out; they are read nevertheless.

        Raises:
            DataError: There is none, or one is unusable; names it.
        """
        stream = self._stream()
        state = torch.get_rng_state()
        for index in count():
            outside = torch.get_rng_state()
            torch.set_rng_state(state)
            try:
                batch = next(stream)
            finally:
                state = torch.get_rng_state()
                torch.set_rng_state(outside)
            if index >= skip:
                yield batch

    def _stream(self) -> Iterator[Batch]:
        for epoch in count():
            seed = self._seed * _EPOCHS + epoch
            torch.manual_seed(seed)
            if isinstance(self._source, DataLoader) and self._source.generator is not None:
                self._source.generator.manual_seed(seed)
            found = 0
            for batch in self._reader.stream(self._source, NAME, needs_targets=True):
                found += 1
                yield batch
            if found == 0:
                raise DataError(f"{NAME}: no batches", hint="give at least one batch")


def _are_tensors(values: tuple[object, ...]) -> bool:
    return all(isinstance(item, Tensor) and item.ndim > 0 for item in values)


def _paired(inputs: Tensor, targets: Tensor) -> TensorDataset:
    if len(inputs) != len(targets):
        raise DataError(
            f"{NAME}: inputs and targets have {len(inputs)} and {len(targets)} samples",
            hint="give as many targets as inputs",
        )
    return TensorDataset(inputs, targets)
