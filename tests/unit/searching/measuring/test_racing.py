"""Candidates are stopped when they cannot reach the frontier, and only then."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoquant import metrics
from autoquant.core.evaluation import Threshold
from autoquant.core.measurement import Kind
from autoquant.model.data.batches import Batch
from autoquant.searching.measuring.quality import (
    FloatReference,
    Quality,
    measure_quality,
    run_reference,
)
from autoquant.searching.measuring.racing import look_after

FUNCTIONS = {"accuracy": metrics.accuracy}
SAMPLES = 1024


def reference() -> FloatReference:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(SAMPLES, 10, generator=draw) * 3
    batches = tuple(Batch((part,), part.argmax(1)) for part in logits.split(32))
    return run_reference(lambda inputs: inputs[0], batches, FUNCTIONS)


def measure(noise: float, threshold: Threshold | None) -> Quality:
    draw = torch.Generator().manual_seed(1)

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0] + noise * torch.randn(inputs[0].shape, generator=draw)

    return measure_quality(run, reference(), FUNCTIONS, Kind.MEASURED, threshold=threshold)


def test_looks_are_taken_at_growing_subsets() -> None:
    assert look_after(2000) == (125, 250, 500, 1000)
    assert look_after(100) == ()


def test_a_candidate_beyond_the_constraint_is_stopped_early() -> None:
    found = measure(6.0, Threshold(accuracy_drop=0.01))
    assert found.stopped is not None
    assert "beyond the limit 0.01" in found.stopped
    assert found.measurements["accuracy"].samples == 64


def test_a_candidate_that_a_cheaper_one_beats_is_stopped_early() -> None:
    found = measure(0.5, Threshold(rival=7, rival_sqnr_db=40.0, rival_drop=0.0))
    assert found.stopped is not None
    assert "candidate 7, which costs no more, has 40.0 dB" in found.stopped
    assert found.measurements["sqnr_db"].samples < SAMPLES


@pytest.mark.parametrize(
    "threshold",
    [
        None,
        Threshold(),
        Threshold(accuracy_drop=0.5),
        Threshold(rival=7, rival_sqnr_db=5.0),
        Threshold(rival=7, rival_sqnr_db=40.0, rival_drop=0.9),
    ],
    ids=[
        "no threshold",
        "nothing asked",
        "drop allowed",
        "worse rival",
        "more accurate than the rival",
    ],
)
def test_a_candidate_that_may_still_reach_the_frontier_is_measured_whole(
    threshold: Threshold | None,
) -> None:
    found = measure(0.5, threshold)
    assert found.stopped is None
    assert found.measurements["accuracy"].samples == SAMPLES
    assert found.measurements == measure(0.5, None).measurements
