"""Quality numbers against hand computation and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from autoquant import metrics
from autoquant.core.measurement import SQNR_CEILING_DB, Kind
from autoquant.errors import BackendError
from autoquant.model.data.batches import Batch
from autoquant.model.data.output_noise import signal_to_noise_db
from autoquant.searching.measuring.quality import NotFiniteError, measure_quality, run_reference

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
TARGETS = torch.tensor([0, 1, 0, 1])
BATCHES = (Batch((LOGITS[:2],), TARGETS[:2]), Batch((LOGITS[2:],), TARGETS[2:]))


def identity(inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0]


def measure(candidate, metric=metrics.accuracy):
    reference = run_reference(identity, BATCHES, {"accuracy": metric})
    return measure_quality(candidate, reference, {"accuracy": metric}, Kind.MEASURED).measurements


def test_an_equal_candidate_drops_nothing_and_reaches_the_ceiling() -> None:
    found = measure(identity)
    assert found["accuracy"].value == 1.0
    assert found["accuracy_drop"].value == 0.0
    assert found["accuracy_drop"].stderr == 0.0
    assert found["sqnr_db"].value == SQNR_CEILING_DB


def test_drop_and_its_paired_standard_error_by_hand() -> None:
    def wrong_on_the_last(inputs: tuple[Tensor, ...]) -> Tensor:
        outputs = inputs[0].clone()
        if torch.equal(outputs[-1], LOGITS[3]):
            outputs[-1] = torch.tensor([1.0, 0.0])
        return outputs

    found = measure(wrong_on_the_last)
    assert found["accuracy_drop"].value == 0.25
    # differences 0, 0, 0, 1: standard deviation 0.5, over the square root of 4 samples
    assert found["accuracy_drop"].stderr == pytest.approx(0.25)
    assert found["accuracy_drop"].samples == 4


def test_sqnr_is_twenty_decibels_at_a_tenth_of_the_amplitude() -> None:
    assert measure(lambda inputs: inputs[0] * 0.9)["sqnr_db"].value == pytest.approx(20.0)


def test_kl_of_two_classes_by_hand() -> None:
    found = measure(lambda inputs: torch.zeros_like(inputs[0]))
    p = math.exp(2) / (math.exp(2) + 1)
    q = math.exp(1) / (math.exp(1) + 1)
    expected = [x * math.log(2 * x) + (1 - x) * math.log(2 * (1 - x)) for x in (p, p, q, q)]
    assert found["kl"].value == pytest.approx(np.mean(expected))


def test_the_standard_error_of_sqnr_matches_its_spread_over_data_sets() -> None:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(400):
        signal = draw.gamma(4.0, 1.0, 200)
        noise = signal * draw.gamma(2.0, 0.005, 200)
        found.append(signal_to_noise_db(signal, noise))
    values, errors = np.array(found).T
    # 400 repetitions leave the standard deviation itself uncertain by 3.5%
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.12)


def test_a_metric_that_gives_one_number_a_batch_is_weighted_by_samples() -> None:
    batches = (Batch((LOGITS[:3],), TARGETS[:3]), Batch((LOGITS[3:],), TARGETS[3:]))

    def share(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    reference = run_reference(identity, batches, {"accuracy": share})
    found = measure_quality(
        lambda inputs: -inputs[0] if len(inputs[0]) == 1 else inputs[0],
        reference,
        {"accuracy": share},
        Kind.MEASURED,
    ).measurements
    assert found["accuracy"].value == 0.75


def test_an_axis_too_many_is_told_before_the_metric_meets_it() -> None:
    batches = [Batch((torch.randn(4, 3),), torch.arange(4) % 3)]
    reference = run_reference(identity, batches, {"accuracy": metrics.accuracy})
    with pytest.raises(BackendError, match=r"shape \(1, 4, 3\) here, in the float model \(4, 3\)"):
        measure_quality(
            lambda inputs: inputs[0][None],
            reference,
            {"accuracy": metrics.accuracy},
            Kind.MEASURED,
        )


def test_outputs_that_are_not_finite_name_their_batch() -> None:
    with pytest.raises(NotFiniteError, match="batch 0"):
        measure(lambda inputs: inputs[0] * float("nan"))


def test_a_larger_loss_is_a_rise_and_worse_as_a_drop_is() -> None:
    functions = {"accuracy": metrics.accuracy, "loss": lambda outputs, targets: outputs.sum(1)}
    reference = run_reference(identity, BATCHES, functions)
    candidate = measure_quality(lambda inputs: inputs[0] + 0.5, reference, functions, Kind.MEASURED)
    found = candidate.measurements
    assert found["loss"].value == pytest.approx(1.5 + 1.0)
    assert found["loss_rise"].value == pytest.approx(1.0)
