"""A subject holds the model in eval mode, and leaves the user's own as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoquant.errors import MetricError
from autoquant.model.subject import Subject, build_subject
from tests.faulty import good_data, good_metric, good_model
from tests.networks import LinearNet, seeded


def subject_of(model: nn.Module) -> Subject:
    return build_subject(
        model, calibration=good_data(), evaluation=good_data(), heldout=None, metric=good_metric
    )


@pytest.mark.parametrize("path", ["", "second"], ids=["whole", "one submodule"])
def test_a_model_in_training_mode_stays_in_it(path: str) -> None:
    model = good_model()
    model.get_submodule(path).train()
    before = {name: module.training for name, module in model.named_modules()}
    subject = subject_of(model)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not any(module.training for module in subject.model.modules())
    for kept, given in zip(subject.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(kept, given)


def test_a_model_in_eval_mode_is_not_copied() -> None:
    model = good_model()
    assert subject_of(model).model is model


def test_without_labels_the_targets_are_what_the_float_model_gives() -> None:
    model, images = seeded(LinearNet), torch.randn(100, 16)
    subject = build_subject(
        model, calibration=images, evaluation=images, heldout=None, metric="agreement"
    )
    for batch in subject.evaluation:
        assert torch.equal(batch.targets, model(batch.inputs[0]))
    assert subject.calibration[0].targets is None


def test_a_metric_against_float_takes_no_loss_against_targets() -> None:
    images = torch.randn(8, 16)
    with pytest.raises(MetricError, match="compares with the float model, the other with targets"):
        build_subject(
            seeded(LinearNet),
            calibration=images,
            evaluation=images,
            heldout=None,
            metric="cosine",
            loss="mse",
        )
