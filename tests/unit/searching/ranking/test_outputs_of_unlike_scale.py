"""Rankings and bad cases of a model with boxes of hundreds beside scores below one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from autoquant.comparing.sums import PairSums
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityTable
from autoquant.debugging.samples.sample_error import energies, sqnr_db
from autoquant.model.data.outputs import OutputWeights
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.gradient import measure_gradient
from tests.networks import seeded
from tests.unit.searching.ranking.questions import ask


class Detector(nn.Module):
    """Two heads on one trunk; the boxes have a million times the energy of the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(12, 24)
        self.boxes = nn.Linear(24, 4)
        self.scores = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.trunk(x))
        return {"boxes": self.boxes(hidden) * 1000, "scores": self.scores(hidden)}


def question(weights: dict[str, float] | None = None):
    inputs = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    asked = ask(seeded(Detector), inputs)
    object.__setattr__(asked, "outputs", OutputWeights(weights or {}))
    return asked


def losses(table: SensitivityTable) -> dict[str, float]:
    found = {
        row.knob: row.noise
        for row in table.rows
        if row.scheme is Scheme.INT8 and row.part is Part.BOTH
    }
    return {
        knob: found[name]
        for name in found
        for knob in ("trunk", "boxes", "scores")
        if name.startswith(knob)
    }


@pytest.mark.parametrize("measure", [measure_exact, measure_gradient], ids=["exact", "gradient"])
def test_the_head_of_the_small_output_counts_as_the_other_does(measure) -> None:
    found = losses(measure(question()))
    assert 0.1 < found["scores"] / found["boxes"] < 10  # 1e-6 where energies are added up


@pytest.mark.parametrize("measure", [measure_exact, measure_gradient], ids=["exact", "gradient"])
def test_an_output_without_weight_counts_for_nothing(measure) -> None:
    found = losses(measure(question({"scores": 1.0})))
    assert found["boxes"] < 1e-9 < found["scores"]


def test_the_gradient_of_two_outputs_agrees_with_exact_rows() -> None:
    exact, gradient = losses(measure_exact(question())), losses(measure_gradient(question()))
    for knob in ("boxes", "scores"):
        # to first order a head's rounding is exact but for the random signs of 64 samples
        assert gradient[knob] == pytest.approx(exact[knob], rel=0.5)
    assert exact["trunk"] <= 1.5 * gradient["trunk"] <= 4 * exact["trunk"]


def test_a_sample_is_as_bad_as_its_worst_output() -> None:
    boxes, scores = torch.rand(8, 4) * 1000, torch.rand(8, 3)
    ruined = scores.clone()
    ruined[5] = -ruined[5]
    decibels = sqnr_db(*energies([boxes, scores], [boxes * 1.001, ruined]))
    assert int(decibels.argmin()) == 5
    assert float(decibels[5]) == pytest.approx(10 * math.log10(1 / 4), abs=1e-4)
    others = torch.cat([decibels[:5], decibels[6:]])
    torch.testing.assert_close(others, torch.full_like(others, 60.0), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("found", "divergence"),
    [([1.0] + [0.0] * 9, 1.461), ([22.0, 30.0] + [0.0] * 8, 8.0)],
    ids=["flattened", "swapped"],
)
def test_divergence_is_right_where_one_logit_dominates(
    found: list[float], divergence: float
) -> None:
    sums = PairSums()
    sums.add(torch.tensor([[30.0] + [0.0] * 9]), torch.tensor([found]), 1)
    assert sums.error(None).kl == pytest.approx(divergence, abs=2e-3)
