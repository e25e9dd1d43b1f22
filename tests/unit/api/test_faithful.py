"""What torch's fusion would change is refused; what it only rounds anew is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoquant import metrics, split_shared
from autoquant.api.faithful import refuse_unfaithful
from autoquant.api.pair import prepare_untimed
from autoquant.api.preparation import Preparation
from autoquant.api.watch import Silent
from autoquant.errors import ModelError
from autoquant.job import Job
from autoquant.model.subject import build_subject
from tests.misbuilt import SharedBehindNorms
from tests.networks import MixedNet, images, seeded


def trained(model: nn.Module) -> nn.Module:
    """Batch norms that differ from one another."""
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.copy_(torch.randn(module.num_features, generator=draw))
    return model.eval()


def prepared(model: nn.Module) -> Preparation:
    job = Job.model_validate(
        {"name": "faithful", "space": {"schemes": ["int8", "fp32"]}, "output": "unused"}
    )
    batch = images(8)
    subject = build_subject(
        model,
        calibration=[batch],
        evaluation=(batch, model(batch).flatten(1).argmax(1)),
        heldout=None,
        metric=metrics.accuracy,
    )
    return prepare_untimed(job, subject, Silent())


def test_a_convolution_behind_two_batch_norms_is_refused_with_its_mend() -> None:
    with pytest.raises(ModelError, match="the traced, fused model gives other outputs") as caught:
        refuse_unfaithful(prepared(trained(seeded(SharedBehindNorms))))
    assert "split_shared" in caught.value.hint


def test_the_split_model_passes() -> None:
    refuse_unfaithful(prepared(split_shared(trained(seeded(SharedBehindNorms)), images(2))))


def test_a_network_whose_batch_norms_are_folded_passes() -> None:
    refuse_unfaithful(prepared(trained(seeded(MixedNet))))
