"""A channel that is large but rarely active is equalised as others are."""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import nn

from autoquant.core.build import BuildSettings
from autoquant.core.equalisation import Equalisation
from autoquant.core.progress import Silent
from autoquant.model.building import build_subject
from autoquant.searching.preparing.equalising import few_statistics, find_equalisation
from tests.networks import LinearNet, seeded

CHANNEL = 7


def found(model: nn.Module, inputs: torch.Tensor) -> Equalisation:
    subject = build_subject(model, calibration=inputs, evaluation=inputs, equalise="auto")
    captured = subject.find_sites()
    few = cache(partial(few_statistics, subject, captured))
    return find_equalisation(subject, captured, BuildSettings(), Silent(), few, tries=True)


def test_a_large_channel_that_the_first_samples_do_not_show_is_found() -> None:
    inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    model = seeded(LinearNet)
    with torch.no_grad():
        model.first.weight[CHANNEL] *= 64.0
        model.first.bias[CHANNEL] *= 64.0
        model.second.weight[:, CHANNEL] /= 64.0
    active = model.first(inputs)[:, CHANNEL] > 0.0
    rarely = torch.cat([inputs[~active], inputs[active]])
    assert int((~active).sum()) > 4
    assert found(model.eval(), rarely)
