"""Models that hand out class numbers alone, through every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import autoquant as aq
from tests.networks import LinearNet, seeded

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = torch.randn(96, 16, generator=torch.Generator().manual_seed(2))


class Labels(LinearNet):
    """The class alone."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x).argmax(1)


class Labelled(LinearNet):
    """The class with its score."""

    def forward(self, x: Tensor) -> Any:
        found = super().forward(x).softmax(1).max(1)
        return {"label": found.indices, "score": found.values}


def same_class(outputs: Any, targets: Any) -> Tensor:
    """One of what the model returns, so of no floats."""
    found, wanted = (
        item["label"] if isinstance(item, dict) else item for item in (outputs, targets)
    )
    assert found.dtype is torch.int64
    return (found == wanted).float()


same_class.against_float = True  # type: ignore[attr-defined]


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs["label"] if isinstance(outputs, dict) else outputs, targets)


def right(outputs: Any, targets: Tensor) -> Tensor:
    return ((outputs["label"] if isinstance(outputs, dict) else outputs) == targets).float()


@pytest.mark.parametrize("kind", [Labels, Labelled])
def test_a_search_judges_by_the_scores_and_hands_out_the_users_outputs(
    kind: Callable[[], LinearNet], tmp_path: Path
) -> None:
    model = seeded(kind)
    result = aq.search(
        model,
        calibration=ROWS[:64],
        evaluation=ROWS[64:],
        metric=same_class,
        backend={"name": "torch", "pairs": 4},
        space={"schemes": ["int8", "fp32"]},
        trials=0,
        max_drop=None,
        progress=False,
    )
    int8 = next(item for item in result.candidates if item.origin == "seed:uniform-int8")
    assert 20 < int8.value("sqnr_db") < 80  # of class numbers it would be infinite, or near 0
    returned = model(ROWS)
    file = torch.jit.load(str(aq.export(int8, model, tmp_path / "labels.ts")))
    for handed in (int8.quantize(model), file):
        found = handed(ROWS)
        assert type(found) is type(returned)
        # int8 scores tie, and kernels break ties in orders of their own
        assert (_label(found) == _label(returned)).float().mean() > 0.85


def _label(outputs: Any) -> Tensor:
    found = outputs["label"] if isinstance(outputs, dict) else outputs
    assert isinstance(found, Tensor)
    return found


def test_sensitivity_ranks_by_the_scores_and_scores_what_is_returned() -> None:
    model = seeded(Labels)
    found = aq.sensitivity(
        model, calibration=ROWS[:64], evaluation=ROWS[64:], metric=same_class, progress=False
    )
    plain = aq.sensitivity(
        seeded(LinearNet),
        calibration=ROWS[:64],
        evaluation=ROWS[64:],
        metric="agreement",
        progress=False,
    )
    assert [(row.knob, row.scheme) for row in found.table.rows] == [
        (row.knob, row.scheme) for row in plain.table.rows
    ]
    assert [row.noise for row in found.table.rows] == pytest.approx(
        [row.noise for row in plain.table.rows], rel=1e-5
    )


def test_tune_and_diagnose_take_it() -> None:
    model, data = seeded(Labels), {"calibration": ROWS[:64], "evaluation": ROWS[64:]}
    tuned = aq.tune(model, **data, metric=same_class, max_drop=0.2, progress=False)
    assert {"first", "second", "last"} <= set(tuned.plan.schemes)
    found = aq.diagnose(model, "int8", **data, progress=False)
    assert 20 < found.sqnr_db < 80


def test_bad_cases_of_a_pair_in_python_are_found_by_the_scores() -> None:
    model, noisy = seeded(Labels), seeded(Labels)
    with torch.no_grad():
        noisy.last.weight.add_(1e-3)
    found = aq.find_bad_cases(model, noisy, ROWS, progress=False)
    plain, noisy_scores = seeded(LinearNet), seeded(LinearNet)
    with torch.no_grad():
        noisy_scores.last.weight.add_(1e-3)
    expected = aq.find_bad_cases(plain, noisy_scores, ROWS, progress=False)
    assert found.sqnr_db == pytest.approx(expected.sqnr_db)


def test_fine_tuning_lowers_a_loss_of_the_scores_and_gives_the_users_class() -> None:
    model, classes = seeded(Labels), ROWS[:, :4].argmax(1)
    batches = [(ROWS[at : at + 32], classes[at : at + 32]) for at in (0, 32)]
    found = aq.finetune(
        model,
        "int8",
        batches,
        cross_entropy,
        float_steps=200,
        calibration=ROWS[:64],
        evaluation=(ROWS[64:], classes[64:]),
        metric=right,
        progress=False,
    )
    assert type(found.model) is Labels
    for handed in (found.model, found.quantized):
        outputs = handed(ROWS)
        assert outputs.dtype is torch.int64
    assert not torch.equal(found.model.last.weight, model.last.weight)
