"""Every output of a candidate is judged, and the worst one guides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from autoquant.core.evaluation import Threshold
from autoquant.core.measurement import Kind, Measurement
from autoquant.errors import ModelError
from autoquant.model.data.batches import Batch
from autoquant.model.data.outputs import OutputWeights, divergence, named_outputs
from autoquant.searching.measuring.quality import measure_quality, run_reference

COUNT = 12
DRAW = torch.Generator().manual_seed(0)
SCORES = torch.rand(COUNT, 3, generator=DRAW)
BOXES = torch.rand(COUNT, 5, 4, generator=DRAW) * 300
BATCHES = tuple(Batch((torch.arange(start, start + 4),), start) for start in (0, 4, 8))


def no_metric(outputs: Any, targets: Any) -> float:  # noqa: ARG001
    return 0.0


def detector(scores: Tensor = SCORES, boxes: Tensor = BOXES) -> Any:
    return lambda inputs: {"boxes": boxes[inputs[0]], "scores": scores[inputs[0]]}


def measure(
    floats: Any, candidate: Any, weights: dict[str, float] | None = None
) -> dict[str, Measurement]:
    functions = {"accuracy": no_metric}
    reference = run_reference(floats, BATCHES, functions, OutputWeights(weights or {}))
    return measure_quality(candidate, reference, functions, Kind.MEASURED).measurements


def decibels(expected: Tensor, found: Tensor) -> float:
    expected, found = expected.double(), found.double()
    return 10 * math.log10(float((expected**2).sum() / ((expected - found) ** 2).sum()))


def test_ruined_scores_show_beside_large_boxes() -> None:
    ruined, moved = SCORES.flip(0), BOXES + 0.5
    found = measure(detector(), detector(ruined, moved))
    assert found["sqnr_db"].value == pytest.approx(decibels(SCORES, ruined))
    assert found["sqnr_db.scores"].value == found["sqnr_db"].value
    assert found["sqnr_db.boxes"].value == pytest.approx(decibels(BOXES, moved))
    whole = [
        torch.cat([item.flatten(), box.flatten()])
        for item, box in ((SCORES, BOXES), (ruined, moved))
    ]
    assert found["sqnr_db.all"].value == pytest.approx(decibels(*whole))
    assert found["sqnr_db.all"].value > 40
    assert found["sqnr_db"].value < 10


def test_weights_say_which_outputs_guide() -> None:
    candidate = detector(SCORES.flip(0), BOXES + 0.5)
    ratios = [
        10 ** (-decibels(*pair) / 10) for pair in ((SCORES, SCORES.flip(0)), (BOXES, BOXES + 0.5))
    ]
    boxes = measure(detector(), candidate, {"boxes": 1.0})
    assert boxes["sqnr_db"].value == pytest.approx(-10 * math.log10(ratios[1]))
    both = measure(detector(), candidate, {"scores": 1.0, "boxes": 3.0})
    assert both["sqnr_db"].value == pytest.approx(-10 * math.log10((ratios[0] + 3 * ratios[1]) / 4))


def test_weights_of_an_output_that_is_not_there_are_refused() -> None:
    with pytest.raises(ModelError, match="the model returns no 'logits'"):
        OutputWeights({"logits": 1.0}).check(("boxes", "scores"))


def test_the_standard_error_of_a_weighted_figure_matches_its_spread() -> None:
    draw = torch.Generator().manual_seed(3)
    values, errors = [], []
    for _ in range(300):
        scores, boxes = torch.randn(COUNT, 3, generator=draw), torch.randn(COUNT, 4, generator=draw)
        noisy = [
            item + torch.randn(item.shape, generator=draw) * 0.1 * item for item in (scores, boxes)
        ]
        found = measure(detector(scores, boxes), detector(*noisy), {"scores": 1.0, "boxes": 2.0})
        values.append(found["sqnr_db"].value)
        errors.append(found["sqnr_db"].stderr or 0.0)
    # twelve samples: the delta method is off by a few percent, 300 repetitions by four
    assert torch.tensor(errors).mean() == pytest.approx(float(torch.tensor(values).std()), rel=0.2)


@dataclass
class Detected:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    task: str = "detection"
    loss: Tensor | None = None
    best: Tensor | None = None


def test_constants_and_integers_among_the_outputs_are_left_out() -> None:
    outputs = Detected(SCORES, (BOXES,), best=SCORES.argmax(1))
    assert list(named_outputs(outputs)) == ["logits", "hidden.0"]


def test_complex_outputs_are_counted() -> None:
    spectrum = torch.complex(SCORES, SCORES.flip(0))
    found = measure(
        lambda inputs: (SCORES[inputs[0]], spectrum[inputs[0]]),
        lambda inputs: (SCORES[inputs[0]], spectrum[inputs[0]] * 0.9),
    )
    assert found["sqnr_db"].value == pytest.approx(20.0, abs=1e-5)
    assert found["sqnr_db.1"].value == found["sqnr_db"].value


def test_a_model_without_floating_outputs_is_refused() -> None:
    with pytest.raises(ModelError, match="without a floating tensor"):
        named_outputs({"best": torch.zeros(3, dtype=torch.int64), "name": "x"})


@pytest.mark.parametrize("shape", [(7, 4, 3), (3,), ()], ids=["time first", "one row", "one value"])
def test_outputs_that_do_not_start_with_samples_are_judged_by_batch(shape: tuple[int, ...]) -> None:
    values = {start: torch.randn(shape, generator=DRAW) for start in (0, 4, 8)}
    found = measure(
        lambda inputs: values[int(inputs[0][0])], lambda inputs: values[int(inputs[0][0])] * 1.1
    )
    assert found["sqnr_db"].value == pytest.approx(20.0, abs=1e-4)
    assert found["sqnr_db"].samples == COUNT


def test_boxes_that_only_one_model_finds_count_as_noise() -> None:
    kept = torch.rand(3, 4, generator=DRAW)
    extra = torch.cat([kept, torch.ones(1, 4)])
    found = measure(lambda inputs: [kept], lambda inputs: [extra])
    assert found["sqnr_db"].value == pytest.approx(10 * math.log10(float((kept**2).sum()) / 4))
    lost = measure(lambda inputs: [kept], lambda inputs: [extra[:2]])
    assert lost["sqnr_db"].value == pytest.approx(
        decibels(kept, kept * torch.tensor([[1.0], [1.0], [0.0]]))
    )


def test_divergence_of_token_logits_is_the_mean_over_positions() -> None:
    logits, other = torch.randn(2, 3, 5, generator=DRAW), torch.randn(2, 3, 5, generator=DRAW)
    p, q = logits.double().softmax(-1), other.double().softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean(1)
    torch.testing.assert_close(divergence(logits, other, 2), expected)


@pytest.mark.parametrize(
    ("found", "expected"),
    [([1.0] + [0.0] * 9, 1.461), ([0.0, 30.0] + [0.0] * 8, 30.0)],
    ids=["flattened", "another class"],
)
def test_divergence_where_one_logit_dominates(found: list[float], expected: float) -> None:
    dominant = torch.tensor([[30.0] + [0.0] * 9])
    assert float(divergence(dominant, torch.tensor([found]), 1)) == pytest.approx(
        expected, abs=2e-3
    )


@pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=str)
def test_divergence_of_one_logit_is_that_of_its_sigmoid(shape: tuple[int, ...]) -> None:
    logits, other = torch.randn(2, *shape, generator=DRAW, dtype=torch.float64)
    p, q = torch.sigmoid(logits).flatten(), torch.sigmoid(other).flatten()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(divergence(logits, other, 4), expected)


def test_divergence_of_maps_is_over_their_channels() -> None:
    logits, other = torch.randn(2, 5, 3, 3, generator=DRAW), torch.randn(2, 5, 3, 3, generator=DRAW)
    by_token = [item.permute(0, 2, 3, 1).reshape(2, 9, 5) for item in (logits, other)]
    torch.testing.assert_close(divergence(logits, other, 2), divergence(*by_token, 2))


def test_a_candidate_is_not_stopped_on_a_figure_without_a_standard_error() -> None:
    """Outputs of one row a batch: after the first of two batches nothing is known of the spread."""
    batches = (Batch((torch.zeros(64, 1),), 0), Batch((torch.ones(64, 1),), 0))
    functions = {"accuracy": no_metric}
    run = lambda inputs: inputs[0][0] + 1  # noqa: E731
    reference = run_reference(run, batches, functions)
    threshold = Threshold(accuracy_drop=None, rival=1, rival_sqnr_db=100.0)
    found = measure_quality(
        lambda inputs: run(inputs) * 0.9, reference, functions, Kind.MEASURED, threshold=threshold
    )
    assert found.stopped is None
