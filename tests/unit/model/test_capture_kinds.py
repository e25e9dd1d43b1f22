"""Kinds of models that strangers bring, each as the least network that has it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoquant.model.graph.capture import capture


@dataclass
class Reading:
    score: Tensor
    features: tuple[Tensor, Tensor]


class GivesDataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Reading:
        features = self.linear(rows)
        return Reading(features.sum(1), (features, features.relu()))


def test_outputs_in_a_dataclass_that_nobody_registered_are_captured() -> None:
    model, rows = GivesDataclass().eval(), torch.randn(3, 4)
    given = capture(model, (rows,), how="export").graph(rows)
    assert isinstance(given, Reading)
    assert torch.equal(given.features[1], model(rows).features[1])
