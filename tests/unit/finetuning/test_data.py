"""Training data: the same for the same seed, read anew each epoch, checked as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autoquant.errors import DataError
from autoquant.finetuning.training.data import TrainingData
from autoquant.model.data.reader import DataReader

MODEL = nn.Linear(1, 1)
INPUTS = torch.arange(10.0)[:, None]
TARGETS = torch.arange(10)


class Noisy:
    """Draws from torch's global generator, as augmentation does."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(10).split(4):
            yield INPUTS[chosen] + torch.rand(1), TARGETS[chosen]


SOURCES = {
    "tensors": lambda: (INPUTS, TARGETS),
    "loader": lambda: DataLoader(TensorDataset(INPUTS, TARGETS), 4, shuffle=True),
    "loader-of-its-own": lambda: DataLoader(
        TensorDataset(INPUTS, TARGETS), 4, shuffle=True, generator=torch.Generator()
    ),
    "augmented": Noisy,
}
every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())


def training(source: object, seed: int) -> TrainingData:
    return TrainingData(source, seed, DataReader(MODEL))


def rows(data: TrainingData, count: int, skip: int = 0) -> list[list[float]]:
    return [batch.inputs[0].flatten().tolist() for batch in islice(data.batches(skip), count)]


@every_source
def test_the_same_seed_gives_the_same_batches_whatever_was_drawn_elsewhere(
    source: Callable[[], object],
) -> None:
    first = rows(training(source(), 3), 8)
    torch.rand(5)
    assert rows(training(source(), 3), 8) == first
    assert rows(training(source(), 4), 8) != first


@every_source
def test_skipped_batches_leave_those_after_them_as_they_were(
    source: Callable[[], object],
) -> None:
    assert rows(training(source(), 3), 3, skip=5) == rows(training(source(), 3), 8)[5:]


def test_each_epoch_has_an_order_of_its_own() -> None:
    found = rows(training(SOURCES["loader"](), 0), 6)
    assert found[:3] != found[3:]
    assert sorted(value for row in found[3:] for value in row) == INPUTS.flatten().tolist()


def test_reading_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    rows(training(Noisy(), 0), 5)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (iter([(INPUTS, TARGETS)]), "can be read once only"),
        (7, "training: got int"),
        ([], "training: no batches"),
        ([INPUTS], "training batch 0 has no targets"),
        ((INPUTS, TARGETS[:4]), "inputs and targets have 10 and 4 samples"),
        ([(INPUTS * float("nan"), TARGETS)], "training batch 0 holds NaN or infinity"),
    ],
    ids=["iterator", "number", "empty", "no-targets", "uneven", "nan"],
)
def test_unusable_training_data_are_named(source: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        training(source, 0).first()
