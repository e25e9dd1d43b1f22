"""A subject holds the model in eval mode, and leaves the user's own as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoquant.model.subject import Subject, build_subject
from tests.faulty import good_data, good_metric, good_model


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
