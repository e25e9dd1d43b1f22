"""Every seeded fault is diagnosed by its cause and its place; healthy models are clean."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
import torch
import yaml
from torch import Tensor, nn

import autoquant as aq
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.backends.torch_cpu.support import site_support
from autoquant.core.findings.diagnosis import Cause, Diagnosis, Finding, Pattern
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.debugging.diagnose import diagnose_pair
from autoquant.debugging.diagnosis import kernel_faults
from autoquant.errors import BackendError, ModelError
from autoquant.job import Job, SpaceRules
from autoquant.model.building import build_subject
from autoquant.searching.pair import Pair, build_pair, find_plan, prepare_untimed
from autoquant.searching.preparing.space import bind_space
from experiments import digits, resnet20
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded
from tests.seeded_faults import (
    FAULTS,
    OF_ANY_NETWORK,
    Fault,
    ResidualNet,
    SharedNet,
    outlier_channels,
)
from tests.unit.debugging.pairs import spoilt

ENGINE = {"engine": "onednn"}

EXPECTED = {
    **OF_ANY_NETWORK,
    "saturated_sigmoid": (
        Cause.SATURATED,
        Pattern.INSENSITIVE,
        "--set 'calibration.fixed_ranges={gate: [-8, 8]}'",
    ),
    "per_tensor_weight": (Cause.PER_TENSOR_WEIGHT, Pattern.INSENSITIVE, "raise up"),
    "varying_range": (Cause.VARYING_RANGE, Pattern.INSENSITIVE, "int8_dynamic for head"),
}


def run(fault: Fault, plan: Plan | str = "int8") -> Diagnosis:
    return aq.diagnose(
        fault.model,
        plan,
        calibration=fault.calibration,
        evaluation=fault.evaluation,
        backend={"engine": fault.engine},
    )


@pytest.fixture(scope="module", params=sorted(FAULTS))
def diagnosed(request: pytest.FixtureRequest) -> tuple[str, Fault, Diagnosis]:
    fault = FAULTS[request.param]()
    return request.param, fault, run(fault)


def only(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis.findings
    return finding


@pytest.mark.slow
def test_a_seeded_fault_is_found_with_its_op_and_its_step_and_no_other(
    diagnosed: tuple[str, Fault, Diagnosis],
) -> None:
    name, fault, diagnosis = diagnosed
    cause, pattern, step = EXPECTED[name]
    finding = only(diagnosis)
    assert (finding.cause, diagnosis.pattern) == (cause, pattern)
    assert finding.sites[0] == fault.site
    assert finding.samples == (() if fault.sample is None else (fault.sample,))
    assert step in str(diagnosis.next_step)


def test_mending_the_fault_alone_makes_the_model_healthy(
    diagnosed: tuple[str, Fault, Diagnosis],
) -> None:
    _, _, diagnosis = diagnosed
    finding = only(diagnosis)
    assert finding.before_db < diagnosis.limit_db < finding.after_db


def test_every_fault_has_an_expectation() -> None:
    assert set(EXPECTED) == set(FAULTS)


def test_the_plan_that_a_diagnosis_writes_is_healthy() -> None:
    fault = outlier_channels()
    first = run(fault)
    assert first.plan is not None
    assert first.plan_db is not None
    assert first.plan_db > first.limit_db
    again = run(fault, first.plan)
    assert (again.pattern, again.findings) == (Pattern.HEALTHY, ())


def test_the_plan_of_a_varying_range_is_dynamic_where_its_step_says_so() -> None:
    diagnosis = run(FAULTS["varying_range"]())
    assert diagnosis.plan is not None
    assert "int8_dynamic for head" in str(diagnosis.next_step)
    assert diagnosis.plan["head"] is Scheme.INT8_DYNAMIC
    assert str(diagnosis.rules).count("int8_dynamic, fp32") == 1
    assert diagnosis.plan_db is not None
    assert diagnosis.plan_db > diagnosis.limit_db


def test_all_outliers_among_the_samples_are_named_worst_first() -> None:
    fault = FAULTS["outlier_sample"]()
    fault.evaluation[80] *= 100.0
    fault.evaluation[5] *= 70.0
    finding = only(run(fault))
    assert (finding.cause, set(finding.samples)) == (Cause.OUTLIER_SAMPLE, {5, 37, 80})


def test_one_outlier_among_thousands_is_a_clipped_sample() -> None:
    evaluation = vectors(2000, 2)
    evaluation[37] *= 30.0
    diagnosis = aq.diagnose(
        seeded(OneNumber), calibration=vectors(256, 1), evaluation=evaluation, backend=ENGINE
    )
    finding = only(diagnosis)
    assert (finding.cause, finding.samples) == (Cause.OUTLIER_SAMPLE, (37,))


class OneNumber(nn.Module):
    """A regression whose output crosses zero: no signal there, and the usual noise."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(16, 32)
        self.last = nn.Linear(32, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(x)))


class TwoNumbers(OneNumber):
    """The same with its number by two names."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        number = super().forward(x)[:, 0]
        return {"up": number, "down": -number}


@pytest.mark.parametrize("kind", [OneNumber, TwoNumbers])
def test_an_output_near_zero_is_no_bad_sample(kind: type[nn.Module]) -> None:
    model = seeded(kind)
    diagnosis = aq.diagnose(
        model, calibration=vectors(256, 1), evaluation=vectors(2000, 2), backend=ENGINE
    )
    assert diagnosis.sqnr_db > 30
    assert (diagnosis.pattern, diagnosis.bad) == (Pattern.HEALTHY, ())


def test_the_rules_that_a_diagnosis_writes_leave_the_raised_ops_no_int8() -> None:
    pair = pair_of(*data_of(outlier_channels()))
    diagnosis = diagnose_pair(pair, "evaluation", Silent())
    rules = SpaceRules.model_validate(
        {"schemes": ["int8", "bf16", "fp32"], "rules": yaml.safe_load(str(diagnosis.rules))}
    )
    captured = pair.prepared.captured
    support = partial(site_support, ENGINE["engine"])
    bound = bind_space(rules, captured.sites, captured.agreements, support, real_kernels_only=False)
    assert diagnosis.plan is not None
    raised = {name for name, scheme in diagnosis.plan.assignment if scheme is not Scheme.INT8}
    for knob in bound.space.knobs:
        assert (Scheme.INT8 in knob.schemes) == (not raised & set(knob.sites))


def data_of(fault: Fault) -> tuple[nn.Module, Tensor, Tensor]:
    return fault.model, fault.calibration, fault.evaluation


def test_ops_that_are_coarse_with_right_ranges_are_named_and_raised() -> None:
    """Features between 495 and 505, as the next layer takes their offset away."""
    model = seeded(LinearNet)
    with torch.no_grad():
        model.first.bias += 500.0
        model.second.bias -= 500.0 * model.second.weight.sum(1)
    diagnosis = run(Fault(model, vectors(64, 1), vectors(96, 2), site="second"))
    finding = only(diagnosis)
    assert (diagnosis.pattern, finding.cause) == (Pattern.INSENSITIVE, Cause.RESOLUTION)
    assert finding.sites[0] == "second"
    assert diagnosis.plan is not None
    assert diagnosis.plan["second"] is Scheme.BF16
    assert diagnosis.plan["last"] is Scheme.INT8


def pair_of(
    model: nn.Module, calibration: Tensor, evaluation: Tensor, capture: str = "auto"
) -> Pair:
    job = Job.model_validate(
        {
            "name": "pair",
            "space": {"schemes": ["int8", "bf16", "fp32"]},
            "output": "unused",
            "backend": ENGINE,
        }
    )
    subject = build_subject(
        model,
        calibration=calibration,
        evaluation=(evaluation, torch.zeros(len(evaluation), dtype=torch.long)),
        heldout=None,
        metric=aq.metrics.accuracy,
        capture=capture,
    )
    prepared = prepare_untimed(job, subject, Silent())
    return build_pair(prepared, find_plan("int8", prepared, Silent()), Silent())


def lowered_of(pair: Pair) -> LoweredModel:
    module = pair.executable.module
    assert isinstance(module, LoweredModel)
    return module


def without_sign(found: Tensor) -> Tensor:
    values = found.dequantize().abs()
    return torch.quantize_per_tensor(values, found.q_scale(), found.q_zero_point(), found.dtype)


def nudged_corner(found: Tensor) -> Tensor:
    values = found.dequantize()
    values[..., 0, 0] += 30 * found.q_scale()
    return torch.quantize_per_tensor(values, found.q_scale(), found.q_zero_point(), found.dtype)


def test_a_wrong_kernel_is_an_implementation_error_and_nothing_else() -> None:
    with spoilt("block1.conv2", without_sign):
        pair = pair_of(seeded(ResidualNet), images(64, 1), images(96, 2))
        diagnosis = diagnose_pair(pair, "evaluation", Silent())
    finding = only(diagnosis)
    assert (diagnosis.pattern, finding.cause) == (Pattern.IMPLEMENTATION, Cause.KERNEL)
    assert finding.sites == ("block1.conv2",)
    assert finding.after_db > diagnosis.limit_db > finding.before_db
    assert "backend.engine=" in finding.step


def test_a_wrong_kernel_that_does_no_harm_is_a_note() -> None:
    with spoilt("block1.conv2", nudged_corner):
        pair = pair_of(seeded(ResidualNet), images(64, 1), images(96, 2))
        diagnosis = diagnose_pair(pair, "evaluation", Silent())
    assert (diagnosis.pattern, diagnosis.findings) == (Pattern.HEALTHY, ())
    (note,) = diagnosis.notes
    assert "block1.conv2" in note


def a_third_less(found: Tensor) -> Tensor:
    values = 0.67 * found.dequantize()
    return torch.quantize_per_tensor(values, found.q_scale(), found.q_zero_point(), found.dtype)


def test_a_wrong_kernel_that_cannot_be_compared_shows_at_the_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No sample is bad, and what the plan's rounding explains is much less."""

    def refuse(*_: object) -> None:
        raise BackendError("all results at once are too many", hint="none")

    monkeypatch.setattr(kernel_faults, "build_handed_out", refuse)
    with spoilt("block1.conv2", a_third_less):
        pair = pair_of(seeded(ResidualNet), images(64, 1), images(96, 2))
        diagnosis = diagnose_pair(pair, "evaluation", Silent())
    assert (diagnosis.pattern, diagnosis.findings) == (Pattern.HEALTHY, ())
    not_compared, beside = diagnosis.notes
    assert "all results at once are too many" in not_compared
    assert "some op computes something else" in beside


def vectors(count: int, seed: int) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def tokens(count: int, seed: int) -> Tensor:
    return torch.randint(0, 50, (count, 12), generator=torch.Generator().manual_seed(seed))


HEALTHY = {
    "mixed": (MixedNet, images),
    "linear": (LinearNet, vectors),
    "text": (TextNet, tokens),
    "residual": (ResidualNet, images),
    "shared": (SharedNet, images),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_a_healthy_network(name: str) -> None:
    network, data = HEALTHY[name]
    make: Callable[[int, int], Tensor] = data
    diagnosis = aq.diagnose(
        seeded(network), calibration=make(256, 1), evaluation=make(256, 2), backend=ENGINE
    )
    assert (diagnosis.pattern, diagnosis.findings, diagnosis.bad) == (Pattern.HEALTHY, (), ())
    assert diagnosis.notes == ()


def test_bf16_mends_outlier_channels() -> None:
    assert run(outlier_channels(), "bf16").pattern is Pattern.HEALTHY


def test_int16_activations_hold_outlier_channels_but_its_int8_weights_do_not() -> None:
    """Of 65,535 steps a factor of 512 leaves enough; so no range is blamed, but resolution is."""
    finding = only(run(outlier_channels(), "int16"))
    assert finding.cause is Cause.RESOLUTION
    assert "no range is wrong" in finding.evidence


@pytest.mark.slow
def test_nothing_is_found_in_the_digits_network() -> None:
    diagnosis = aq.diagnose(
        digits.model(48),
        calibration=digits.calibration()[:2],
        evaluation=digits.evaluation()[:2],
        backend=ENGINE,
    )
    assert (diagnosis.pattern, diagnosis.findings) == (Pattern.HEALTHY, ())


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("AUTOQUANT_TEST_DATA"), reason="needs the CIFAR-10 folder")
def test_nothing_is_found_in_resnet20() -> None:
    folder = os.environ["AUTOQUANT_TEST_DATA"]
    diagnosis = aq.diagnose(
        resnet20.model(folder),
        calibration=resnet20.calibration(folder, 128),
        evaluation=resnet20.evaluation(folder, 256),
        backend=ENGINE,
    )
    assert (diagnosis.pattern, diagnosis.findings) == (Pattern.HEALTHY, ())


def test_another_backend_is_diagnosed_too() -> None:
    pytest.importorskip("openvino")
    fault = outlier_channels()
    diagnosis = aq.diagnose(
        fault.model,
        calibration=fault.calibration,
        evaluation=fault.evaluation,
        backend={"name": "openvino"},
    )
    assert only(diagnosis).cause is Cause.OUTLIER_CHANNELS
    assert diagnosis.notes == ()


def test_a_model_that_is_captured_module_by_module_has_no_graph_to_look_into() -> None:
    pair = pair_of(seeded(LinearNet), vectors(16, 1), vectors(16, 2), capture="modules")
    with pytest.raises(ModelError, match="diagnose looks at the tensors of a graph"):
        diagnose_pair(pair, "evaluation", Silent())
