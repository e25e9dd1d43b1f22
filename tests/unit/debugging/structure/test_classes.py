"""Classes that calibration hardly sees are named, where targets are classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import autoquant as aq
from autoquant.debugging.structure.classes import count_classes
from autoquant.model.data.batches import Batch
from tests.networks import LinearNet, seeded


def counts(targets: object, *shapes: tuple[int, ...]) -> list[int] | None:
    inputs = torch.zeros(4, 3)
    found = count_classes([Batch((inputs,), targets)] * 2, shapes)
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("targets", "shape", "expected"),
    [
        pytest.param(torch.tensor([0, 2, 2, 0]), (3, 4), [4, 0, 4, 0], id="one-a-sample"),
        pytest.param(torch.tensor([0, 1, 1, 1]), (3, 1), [2, 6], id="one-logit"),
        pytest.param(
            torch.tensor([[0, 0], [0, 1], [1, -100], [2, 2]]), (3, 3, 2), [4, 4, 2], id="pixels"
        ),
        pytest.param(torch.tensor([0, 4, 1, 1]), (3, 4), None, id="no-such-class"),
        pytest.param(torch.tensor([0.0, 1.0, 1.0, 1.0]), (3, 2), None, id="floats"),
        pytest.param(torch.zeros(4, 5, dtype=torch.int64), (3, 5, 50), None, id="tokens"),
        pytest.param({"label": torch.zeros(4, dtype=torch.int64)}, (3, 2), None, id="mapping"),
        pytest.param(None, (3, 2), None, id="none"),
    ],
)
def test_samples_of_each_class_are_counted_where_targets_are_classes(
    targets: Tensor | None, shape: tuple[int, ...], expected: list[int] | None
) -> None:
    assert counts(targets, (), (3, 7, 7, 7), shape) == expected


def test_scarce_classes_are_named_from_all_calibration_data() -> None:
    """Those behind the samples that ranges come from count too."""
    model, data = seeded(LinearNet), torch.randn(150, 16)
    assert model(data).shape[1] == 4
    classes = torch.tensor([0] * 100 + [1] * 49 + [3])
    report = aq.check(model, (data, classes))
    found = {item.where: item.what for item in report.concerns}
    assert found["class 2",] == "1 of 4 classes have no sample in the calibration data: 2"
    assert found["class 3",] == "1 of 4 classes have one sample only in the calibration data: 3"
    assert report.samples == 100
    assert report.classes == "calibration data: 4 classes, samples of the rarest: 0"
    assert not report.needs_attention


def test_data_with_all_classes_and_data_without_targets_are_said_to_be_so() -> None:
    model, data = seeded(LinearNet), torch.randn(20, 16)
    healthy = aq.check(model, (data, torch.arange(20) % 4))
    assert healthy.classes == "calibration data: 4 classes, samples of the rarest: 5"
    assert not any("class" in item.what for item in healthy.concerns)
    assert aq.check(model, data).classes.startswith("calibration data: no targets")
