"""Bisection finds the boundary, and knobs come in the order of what raising them gains."""

from __future__ import annotations

import math

import pytest

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.tuning.walk import fewest, narrow, rank_by_gain

INT8, INT16, FP16, FP32 = Scheme.INT8, Scheme.INT16, Scheme.FP16, Scheme.FP32


@pytest.mark.parametrize("boundary", range(1, 31))
def test_the_smallest_count_is_found_in_few_questions(boundary: int) -> None:
    asked: list[int] = []

    def is_taken(count: int) -> bool:
        asked.append(count)
        return count >= boundary

    assert fewest(0, 30, is_taken) == boundary
    assert len(asked) == len(set(asked)) <= math.ceil(math.log2(30))


def row(knob: str, scheme: Scheme, noise: float) -> SensitivityRow:
    return SensitivityRow(knob, scheme, Part.BOTH, 0.0, None, None, None, None, noise, 0.0)


def test_an_op_whose_noise_int16_keeps_comes_after_one_that_it_mends() -> None:
    space = SearchSpace(tuple(Knob(name, (name,), (INT8, INT16)) for name in ("kept", "mended")))
    table = SensitivityTable(
        (
            row("kept", INT8, 0.9),
            row("kept", INT16, 0.89),
            row("mended", INT8, 0.1),
            row("mended", INT16, 0.0),
        ),
        "made up",
        1,
    )
    assert [knob.name for knob in rank_by_gain(space, table, INT8, INT16)] == ["mended", "kept"]


def test_a_narrowed_space_keeps_pins_and_what_has_none_of_the_schemes() -> None:
    space = SearchSpace(
        (
            Knob("a", ("a",), (INT8, INT16, FP16, FP32)),
            Knob("b", ("b",), (INT8, INT16, FP16)),
            Knob("c", ("c",), (FP16, FP32)),
        )
    )
    found = narrow(space, (INT8, INT16), {"b": FP16})
    assert [knob.schemes for knob in found.knobs] == [(INT8, INT16), (FP16,), (FP32,)]
