"""Perplexity over the data set: lower is better, from the measurement to the tables."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import autoquant as aq
from autoquant.core.precision import Scheme

pytestmark = pytest.mark.filterwarnings("ignore")


class Perplexity:
    """exp of the mean negative log likelihood of all tokens, not of each batch."""

    higher_is_better = False
    unit = "per token"

    def __init__(self) -> None:
        self.total, self.tokens = 0.0, 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        self.total += float(losses)
        self.tokens += targets.numel()

    def compute(self) -> float:
        return math.exp(self.total / self.tokens)


class Bigrams(nn.Module):
    """Predicts a token from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(24, 32)
        self.hidden = nn.Linear(32, 64)
        self.act = nn.GELU()
        self.head = nn.Linear(64, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.act(self.hidden(self.embed(tokens))))
        return logits


def trained() -> tuple[nn.Module, Tensor]:
    """A few steps on text in which each token is followed by one of three."""
    torch.manual_seed(0)
    text = torch.zeros(128, 17, dtype=torch.long)
    text[:, 0] = torch.randint(24, (128,))
    for place in range(1, 17):
        text[:, place] = (text[:, place - 1] * 5 + torch.randint(3, (128,))) % 24
    model = Bigrams()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), text


def test_what_raises_perplexity_is_worse_and_says_so(tmp_path: Path) -> None:
    model, text = trained()
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    found = aq.search(
        model,
        calibration=inputs,
        evaluation=(inputs, targets),
        metric=Perplexity,
        max_drop=0.5,
        space={"schemes": ["int8", "int8_dynamic", "int8_weight_only", "fp32"]},
        objectives=["output_error", "size"],
        trials=6,
        output=tmp_path / "out",
    )
    with torch.no_grad():
        expected = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).exp()
    fp32 = found.baseline["accuracy"].value
    assert fp32 == pytest.approx(float(expected), rel=1e-4)
    for candidate in found.frontier:
        rise = candidate.value("accuracy") - fp32
        assert candidate.value("accuracy_drop") == pytest.approx(rise, abs=1e-6)
        assert rise <= 0.5
        assert (candidate.measurements["accuracy_drop"].stderr or 0.0) >= 0.0
    heads = [column.title for column in found.table().columns]
    assert "Perplexity (per token, lower is better), metric's unit" in heads
    assert "Perplexity (per token, lower is better)" in found.plot().layout.yaxis.title.text
    worst = max(found.candidates, key=lambda item: item.value("accuracy_drop"))
    assert Scheme.FP32 not in {worst.plan["hidden"]} or worst.value("accuracy_drop") <= 0.0
