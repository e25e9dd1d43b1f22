"""Faults of a transformer and an LSTM are diagnosed by cause and place; healthy ones are clean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import autoquant as aq
from autoquant.core.findings.diagnosis import Cause, Diagnosis, Pattern
from autoquant.core.progress import Silent
from autoquant.debugging.diagnose import diagnose_pair
from autoquant.job import Job
from autoquant.model.building import build_subject
from autoquant.searching.pair import Pair, build_pair, find_plan, prepare_untimed
from tests.seeded_faults import OF_ANY_NETWORK, Fault
from tests.seeded_sequences import SEQUENCE_FAULTS, Encoder, Network, Recurrent, healthy
from tests.unit.debugging.pairs import spoilt

EXPECTED = {
    **OF_ANY_NETWORK,
    "saturated_sigmoid": (
        Cause.SATURATED,
        Pattern.INSENSITIVE,
        "--set 'calibration.fixed_ranges={gate.product: [-8, 8]}'",
    ),
    "per_tensor_weight": (Cause.PER_TENSOR_WEIGHT, Pattern.INSENSITIVE, "raise lstm"),
    "varying_range": (Cause.VARYING_RANGE, Pattern.INSENSITIVE, "more bits (int16, bf16) for stem"),
}


def run(fault: Fault) -> Diagnosis:
    return aq.diagnose(
        fault.model,
        fault.plan,
        calibration=fault.calibration,
        evaluation=fault.evaluation,
        backend={"engine": fault.engine},
        space={"schemes": ["int8", "int8_dynamic", "bf16", "fp32"]},
        progress=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQUENCE_FAULTS)
def test_a_seeded_fault_is_found_with_its_op_and_its_step_and_mending_it_is_enough(
    name: str,
) -> None:
    fault = SEQUENCE_FAULTS[name]()
    diagnosis = run(fault)
    cause, pattern, step = EXPECTED[name.split()[1]]
    (finding,) = diagnosis.findings
    assert (finding.cause, diagnosis.pattern) == (cause, pattern)
    assert finding.sites[0] == fault.site
    assert finding.samples == (() if fault.sample is None else (fault.sample,))
    assert step in finding.step
    assert finding.before_db < diagnosis.limit_db < finding.after_db
    if diagnosis.plan is not None:
        assert diagnosis.plan_db is not None
        assert diagnosis.plan_db > diagnosis.limit_db


@pytest.mark.parametrize("network", [Encoder, Recurrent])
def test_nothing_is_found_in_a_healthy_network(network: Network) -> None:
    diagnosis = run(healthy(network))
    assert (diagnosis.pattern, diagnosis.findings, diagnosis.notes) == (Pattern.HEALTHY, (), ())


def test_a_varying_range_that_one_scale_for_a_batch_cannot_hold_takes_more_bits() -> None:
    """The scale of int8_dynamic is that of a batch: samples that come one by one it does hold."""
    diagnosis = run(SEQUENCE_FAULTS["encoder varying_range"]())
    step = str(diagnosis.next_step)
    batch, single = (float(part.split()[-1]) for part in step.split(" dB")[:2])
    assert batch < diagnosis.limit_db < single
    assert diagnosis.plan is not None
    assert "int8_dynamic" not in {scheme.value for _, scheme in diagnosis.plan.assignment}


def without_sign(found: Tensor) -> Tensor:
    if not found.is_quantized:
        return found.abs()
    values = found.dequantize().abs()
    return torch.quantize_per_tensor(values, found.q_scale(), found.q_zero_point(), found.dtype)


def forgetful(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What an LSTM gives if it loses the second half of its states."""
    steps, *states = found
    return (torch.cat([steps[..., :16], torch.zeros_like(steps[..., 16:])], -1), *states)


@pytest.mark.parametrize(
    ("network", "site", "mistake"),
    [(Encoder, "layer.grow", without_sign), (Recurrent, "lstm", forgetful)],
    ids=["encoder", "lstm"],
)
def test_a_wrong_kernel_is_an_implementation_error_and_nothing_else(
    network: Network, site: str, mistake: Callable[[Any], Any]
) -> None:
    with spoilt(site, mistake):
        diagnosis = diagnose_pair(pair_of(healthy(network)), "evaluation", Silent())
    (finding,) = diagnosis.findings
    assert (diagnosis.pattern, finding.cause) == (Pattern.IMPLEMENTATION, Cause.KERNEL)
    assert finding.sites == (site,)
    assert finding.after_db > diagnosis.limit_db > finding.before_db


def pair_of(fault: Fault) -> Pair:
    job = Job.model_validate(
        {
            "name": "pair",
            "space": {"schemes": ["int8", "int8_dynamic", "bf16", "fp32"]},
            "output": "unused",
            "backend": {"engine": fault.engine},
        }
    )
    subject = build_subject(fault.model, calibration=fault.calibration, evaluation=fault.evaluation)
    prepared = prepare_untimed(job, subject, Silent())
    return build_pair(prepared, find_plan(fault.plan, prepared, Silent()), Silent())
