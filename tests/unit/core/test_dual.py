"""An op that is sensitive in both parts is named with what mends it."""

from __future__ import annotations

from autoquant.core.findings.sensitivity_report import DualOp, find_dual_ops
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable

INT8, INT16, FP16 = Scheme.INT8, Scheme.INT16, Scheme.FP16
BOTH, WEIGHT, ACTIVATION = Part.BOTH, Part.WEIGHT, Part.ACTIVATION


def table(*rows: tuple[str, Scheme, Part, float]) -> SensitivityTable:
    return SensitivityTable(
        tuple(
            SensitivityRow(knob, scheme, part, 0.0, None, None, None, None, noise, 0.0)
            for knob, scheme, part, noise in rows
        ),
        "made up",
        1,
    )


def op(name: str, weight: float, activation: float) -> list[tuple[str, Scheme, Part, float]]:
    """A knob whose int16 keeps the noise of its weights, and whose fp16 keeps next to none."""
    return [
        (name, INT8, BOTH, weight + activation),
        (name, INT8, WEIGHT, weight),
        (name, INT8, ACTIVATION, activation),
        (name, INT16, BOTH, weight),
        (name, FP16, BOTH, 1e-7),
    ]


def test_only_ops_that_are_sensitive_in_both_parts_are_dual_and_the_worst_comes_first() -> None:
    found = find_dual_ops(
        table(
            *op("weights alone", 0.1, 1e-5),
            *op("activations alone", 1e-5, 0.1),
            *op("harmless", 1e-5, 1e-5),
            *op("both", 0.01, 0.02),
            *op("both, worse", 0.1, 0.2),
        ),
        INT8,
    )
    assert [item.knob for item in found] == ["both, worse", "both"]


def test_the_remedy_is_the_cheapest_scheme_that_mends_both_parts() -> None:
    found = find_dual_ops(table(*op("conv", 0.01, 0.02)), INT8)
    assert found == (DualOp("conv", INT8, 0.01, 0.02, FP16, 1e-7),)


def test_where_no_scheme_mends_it_the_best_is_told_and_none_is_named() -> None:
    rows = [item for item in op("conv", 0.01, 0.02) if item[1] is not FP16]
    found = find_dual_ops(table(*rows), INT8)
    assert found == (DualOp("conv", INT8, 0.01, 0.02, None, 0.01),)


def test_an_op_without_weights_is_never_dual() -> None:
    assert find_dual_ops(table(("add", INT8, BOTH, 0.5)), INT8) == ()
