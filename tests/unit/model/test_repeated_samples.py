from __future__ import annotations

import pytest
import torch

from autoquant.model.data.batches import Batch, repeat_to


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (7, [0, 1, 2, 0, 1, 2, 0])]
)
def test_samples_are_cut_or_repeated_to_the_wanted_number(count: int, expected: list[int]) -> None:
    (found,) = repeat_to(Batch((torch.arange(3),)), count).inputs
    assert found.tolist() == expected
