"""Chosen samples are those at the chosen places, with their targets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from autoquant.debugging.indices import read_indices
from autoquant.errors import DataError
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import pick_samples

VALUES = torch.arange(10.0).reshape(10, 1)
BATCHES = tuple(
    Batch((VALUES[place : place + 4],), VALUES[place : place + 4] * 2) for place in (0, 4, 8)
)


def test_samples_come_in_the_order_of_the_data_with_their_targets() -> None:
    picked = pick_samples(BATCHES, [9, 0, 5, 5])
    assert torch.cat([batch.inputs[0] for batch in picked]).flatten().tolist() == [0, 5, 9]
    assert torch.cat([batch.targets for batch in picked]).flatten().tolist() == [0, 10, 18]


def test_targets_in_lists_and_mappings_are_taken_apart() -> None:
    targets = {"boxes": VALUES[:4], "names": list("abcd")}
    (batch,) = pick_samples([Batch((VALUES[:4],), targets)], [1, 3])
    assert batch.targets["boxes"].flatten().tolist() == [1, 3]
    assert batch.targets["names"] == ["b", "d"]


class Named(NamedTuple):
    logits: torch.Tensor
    states: list[torch.Tensor]


def test_columns_of_any_structure_are_taken_apart_and_keep_it() -> None:
    targets = Named(VALUES[:4], [VALUES[:4] + layer for layer in range(3)])
    (batch,) = pick_samples([Batch((VALUES[:4],), targets)], [1, 3])
    assert isinstance(batch.targets, Named)
    assert batch.targets.logits.flatten().tolist() == [1, 3]
    assert [state.flatten().tolist() for state in batch.targets.states] == [[1, 3], [2, 4], [3, 5]]


def test_mappings_in_a_tuple_are_one_for_each_sample() -> None:
    targets = tuple({"boxes": torch.zeros(count, 4)} for count in (4, 1, 0, 4))
    (batch,) = pick_samples([Batch((VALUES[:4],), targets)], [1, 3])
    assert [item["boxes"].shape[0] for item in batch.targets] == [1, 4]


def test_a_list_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="type str cannot be taken apart"):
        pick_samples([Batch((VALUES[:4],), list("abcde"))], [1])


@pytest.mark.parametrize(
    ("indices", "message"),
    [([3, 10], "no sample 10 among 10"), ([-1], "no sample -1"), ([], "no sample is chosen")],
    ids=["above", "below", "none"],
)
def test_places_outside_the_data_are_refused(indices: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pick_samples(BATCHES, indices)


def test_indices_are_read_from_text_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text('{"indices": [3, 17], "metric": "cosine"}')
    assert read_indices("3, 17") == read_indices(str(file)) == (3, 17)


@pytest.mark.parametrize(
    "content", ['{"indices": [1.5]}', "[1, 2]", "{", '{"indices": [true]}'], ids=str
)
def test_a_file_without_indices_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(DataError, match="--indices"):
        read_indices(str(file))
