"""What is built must compute what the model computes; rounding anew is no difference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoquant import metrics
from autoquant.core.progress import Silent
from autoquant.errors import ModelError
from autoquant.job import Job
from autoquant.model.building import build_subject
from autoquant.searching.pair import prepare_untimed
from autoquant.searching.preparing.faithful_target import refuse_unfaithful
from autoquant.searching.preparing.preparation import Preparation
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
        capture="export",
    )
    return prepare_untimed(job, subject, Silent())


def test_a_convolution_behind_two_batch_norms_keeps_its_function() -> None:
    refuse_unfaithful(prepared(trained(seeded(SharedBehindNorms))), Silent())


@pytest.mark.slow
def test_a_network_whose_batch_norms_are_folded_passes() -> None:
    refuse_unfaithful(prepared(trained(seeded(MixedNet))), Silent())


class Counting(nn.Module):
    """Computes one thing with every other call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


def test_a_graph_that_computes_something_else_than_the_model_is_refused() -> None:
    rows = torch.rand(4, 8)
    subject = build_subject(Counting(), calibration=[rows])
    with pytest.raises(ModelError, match="the captured graph computes something else"):
        replace(subject, capture="export").find_sites()


def test_where_modules_are_faithful_they_are_taken_and_it_is_said() -> None:
    rows = torch.rand(4, 8)
    subject = build_subject(Counting(), calibration=[rows])
    found = replace(subject, capture="auto").find_sites()
    assert found.how == "modules"
    assert "in the exported graph the output is off by" in found.notices[0]


class Cancelling(nn.Module):
    """A batch norm takes away an offset that cost a convolution's outputs their small digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 4)
        self.doubled = False

    def forward(self, x: Tensor) -> Tensor:
        found = self.head(self.norm(self.conv(x)).amax((2, 3)))
        return found * 2 if self.doubled else found


def cancelling(network: type[Cancelling], offset: float) -> Cancelling:
    """Such a network; float32 keeps seven digits of the offset and what is on top."""
    torch.manual_seed(0)
    model = network().eval()
    with torch.no_grad():
        model.conv.bias.fill_(offset)
        model.norm.running_mean.fill_(offset)
    return model


def test_what_float32_itself_gets_wrong_is_no_difference_and_is_said() -> None:
    found = prepared(cancelling(Cancelling, 3e5))
    assert found.captured.how == "export"
    assert any("by rounding alone" in notice for notice in found.notices)
    passed = refuse_unfaithful(found, Silent())
    assert any("rounding decides what this model computes" in notice for notice in passed.notices)


def test_a_model_that_float32_gets_right_gets_no_notice() -> None:
    found = prepared(cancelling(Cancelling, 0.0))
    assert refuse_unfaithful(found, Silent()) is found


@pytest.mark.parametrize("offset", [0.0, 3e5])
def test_a_real_difference_is_refused_however_the_model_rounds(offset: float) -> None:
    found = prepared(cancelling(Cancelling, offset))
    found.subject.model.doubled = True
    with pytest.raises(ModelError, match="computes something else than the model"):
        refuse_unfaithful(found, Silent())


class CancellingAndCounting(Cancelling):
    """Computes something else with every call, and rounds badly."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) * self.calls


def test_a_graph_of_another_function_is_refused_however_the_model_rounds() -> None:
    subject = build_subject(cancelling(CancellingAndCounting, 3e5), calibration=[images(8)])
    with pytest.raises(ModelError, match="the captured graph computes something else"):
        replace(subject, capture="export").find_sites()
