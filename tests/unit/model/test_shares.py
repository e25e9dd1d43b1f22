"""One data set shared out: no sample twice, none lost, each share from all of the set."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autoquant.errors import DataError
from autoquant.model.building import build_subject
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import StreamedBatches
from autoquant.model.data.reader import DataReader
from autoquant.model.data.readings import DataForm
from autoquant.model.data.shares import Shares, share_out
from tests.networks import images, seeded


class TakesDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, *, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.fc(image) * scale}


def numbered(count: int) -> tuple[Tensor, Tensor]:
    inputs = torch.arange(2.0 * count).reshape(count, 2)
    return inputs, torch.arange(count)


def a_list(count: int) -> object:
    inputs, targets = numbered(count)
    return list(zip(inputs.split(8), targets.split(8), strict=True))


def a_loader(count: int) -> object:
    return DataLoader(TensorDataset(*numbered(count)), batch_size=8, shuffle=True)


def a_function(count: int) -> object:
    return lambda: iter(a_list(count))  # type: ignore[call-overload]


def read(data: object, cache_bytes: int) -> Any:
    form = DataForm(cache_bytes=cache_bytes)
    return DataReader(nn.Linear(2, 3), form).read(data, "data", needs_targets=True)


def samples(batches: object) -> list[int]:
    assert batches is not None
    return [int(item) for batch in batches for item in batch.targets]  # type: ignore[attr-defined]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("give", [a_list, a_loader, a_function])
def test_each_sample_is_in_one_share_again_and_again(
    give: Callable[[int], object], cache_bytes: int
) -> None:
    batches = read(give(320), cache_bytes)
    assert isinstance(batches, StreamedBatches) == (cache_bytes == 0 and give is not a_list)
    shares = share_out(batches, holds_out=True)
    parts = (shares.calibration, shares.evaluation, shares.heldout)
    first = list(map(samples, parts))
    assert sorted(chain(*first)) == list(range(320))
    assert list(map(samples, parts)) == first
    assert str(shares) == (
        "the data were shared out: 80 samples to calibrate on, 120 to compare candidates on, "
        "120 held out"
    )


def test_shares_of_sorted_data_come_from_all_of_them() -> None:
    shares = share_out(read(a_list(320), 1 << 20), holds_out=True)
    for part in (shares.calibration, shares.evaluation, shares.heldout):
        assert {sample // 80 for sample in samples(part)} == {0, 1, 2, 3}


def test_no_more_is_calibrated_on_than_is_enough() -> None:
    shares = share_out(read(a_list(8000), 1 << 20), holds_out=False)
    assert len(samples(shares.calibration)) == 256
    assert len(samples(shares.evaluation)) == 8000 - 256
    assert shares.heldout is None


def test_one_large_batch_is_cut() -> None:
    shares = share_out(read([numbered(100)], 1 << 20), holds_out=True)
    parts = (shares.calibration, shares.evaluation, shares.heldout)
    assert sorted(chain(*map(samples, parts))) == list(range(100))
    assert min(map(len, map(samples, parts))) >= 16


def test_too_few_are_refused() -> None:
    whole = Batch((torch.tensor(1.0),), None)  # cannot be taken apart
    with pytest.raises(DataError, match=r"data of 2 batches cannot be shared out.*and to hold out"):
        share_out([whole, whole], holds_out=True)
    assert isinstance(share_out([whole, whole], holds_out=False), Shares)


def test_a_subject_of_named_inputs_takes_its_shares() -> None:
    inputs = {"image": images(96, 1)[:, 0, 0, :2].clone(), "scale": torch.ones(96, 1)}
    subject = build_subject(
        seeded(TakesDict),
        calibration=None,
        evaluation=(inputs, torch.arange(96) % 3),
        heldout=None,
        metric=lambda outputs, targets: (outputs["logits"].argmax(1) == targets).float(),
        calibration_samples=10,
    )
    assert subject.calling.names == ("image", "scale")
    assert sum(map(len, subject.calibration)) == 10
    assert subject.heldout is not None
    assert sum(map(len, subject.evaluation)) + sum(map(len, subject.heldout)) == 72
    assert any(notice.startswith("the data were shared out") for notice in subject.notices)
