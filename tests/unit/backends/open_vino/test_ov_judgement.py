"""What runs, compared with what was planned, from descriptions of kernels."""

from __future__ import annotations

import pytest

pytest.importorskip("openvino")

from collections.abc import Mapping

from autoquant.backends.openvino.judgement import Judge
from autoquant.backends.openvino.readback import Execution
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind, Site
from tests.readbacks import words


def site(name: str, kind: OpKind, follows: str | None = None) -> Site:
    return Site(
        name=name,
        kind=kind,
        module=name,
        function=None,
        index=None,
        node=name,
        fused=(),
        input_shapes=((1, 4),),
        output_shape=(1, 4),
        macs=16,
        parameter_count=16,
        weight_count=16,
        follows=follows,
    )


def kernel(reads: str, weight: str | None, runs: str, writes: str = "f32") -> Execution:
    return Execution("Any", None, (reads,), (reads,), weight, runs, writes)


SITES = {
    "conv": site("conv", OpKind.CONV2D),
    "act": site("act", OpKind.ACTIVATION, "conv"),
    "cat": site("cat", OpKind.CAT, "conv"),
}


def read(
    plan: Plan, sites: Mapping[str, Site], found: Mapping[str, Execution]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What sites ran, in words, and those that the engine did not follow."""
    judge = Judge.of(plan, sites, found)
    ran = judge.read(plan)
    wrong = [
        site
        for site, planned in plan.assignment
        if ran[site].scheme not in judge.accepts(site, planned)
    ]
    return words(ran), tuple(wrong)


@pytest.mark.parametrize(
    ("planned", "found"),
    [
        (Scheme.INT8, kernel("f32", "f32", "f32")),
        (Scheme.INT8, kernel("bf16", "f32", "bf16")),
        (Scheme.BF16, kernel("f32", "f32", "f32")),
        (Scheme.FP32, kernel("bf16", "f32", "bf16")),
        (Scheme.FP32, kernel("u8", "i8", "u8")),
    ],
    ids=["int8-fp32", "int8-bf16", "bf16-fp32", "fp32-bf16", "fp32-int8"],
)
def test_a_convolution_in_another_format_is_caught(planned: Scheme, found: Execution) -> None:
    _, wrong = read(Plan.of({"conv": planned}), SITES, {"conv": found})
    assert wrong == ("conv",)


def test_a_convolution_that_reads_8_bits_is_int8() -> None:
    found = {"conv": kernel("u8", "i8", "u8", "u8")}
    executed, wrong = read(Plan.of({"conv": Scheme.INT8}), SITES, found)
    assert (executed, wrong) == ({"conv": "int8 native"}, ())


@pytest.mark.parametrize("runs", ["f32", "bf16"])
def test_an_activation_after_int8_may_compute_in_float_and_is_labelled_so(runs: str) -> None:
    found = {"conv": kernel("u8", "i8", "u8"), "act": kernel(runs, None, runs)}
    plan = Plan.of({"conv": Scheme.INT8, "act": Scheme.INT8})
    executed, wrong = read(plan, SITES, found)
    assert executed["act"] == {"f32": "fp32 native", "bf16": "bf16 native"}[runs]
    assert wrong == ()


def test_an_activation_planned_in_fp32_that_runs_bf16_is_caught() -> None:
    found = {"conv": kernel("f32", "f32", "f32"), "act": kernel("bf16", None, "bf16")}
    plan = Plan.of({"conv": Scheme.FP32, "act": Scheme.FP32})
    assert read(plan, SITES, found)[1] == ("act",)


def test_a_concatenation_of_rounded_values_is_labelled_int8() -> None:
    found = {"conv": kernel("f32", "f32", "f32"), "cat": kernel("u8", None, "u8")}
    plan = Plan.of({"conv": Scheme.FP32, "cat": Scheme.FP32})
    executed, wrong = read(plan, SITES, found)
    assert (executed["cat"], wrong) == ("int8 native", ())


def test_a_weighted_op_that_the_engine_removed_is_caught_in_a_plan_with_bf16() -> None:
    plan = Plan.of({"conv": Scheme.BF16})
    executed, wrong = read(plan, SITES, {})
    assert (executed["conv"], wrong) == ("nothing that the engine names", ("conv",))


@pytest.mark.parametrize("follows", [None, "conv"], ids=["of its own", "follows"])
def test_a_concatenation_moves_codes_whoever_it_follows(follows: str | None) -> None:
    sites = {**SITES, "cat": site("cat", OpKind.CAT, follows)}
    found = {"conv": kernel("f32", "f32", "f32"), "cat": kernel("u8", None, "u8", "u8")}
    _, wrong = read(Plan.of({"conv": Scheme.FP32, "cat": Scheme.FP32}), sites, found)
    assert wrong == ()
