"""Floats that are slow here are left out of a space, unless something else speaks for them."""

from __future__ import annotations

import pytest

from autoquant.core.measurement import FLOAT_PLAN, Kind, Measurement
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.job import SearchSettings
from autoquant.searching.preparing.narrowing import without_slow_floats

SPACE = SearchSpace(
    (
        Knob("a", ("a",), (Scheme.INT8, Scheme.BF16, Scheme.FP32)),
        Knob("b", ("b",), (Scheme.BF16, Scheme.FP32)),
        Knob("c", ("c",), (Scheme.BF16,)),
    )
)


def baseline(bf16: float) -> dict[str, Measurement]:
    speeds = {"fp32": 1.5, "bf16": bf16}
    return {FLOAT_PLAN + name: Measurement(value, Kind.MEASURED) for name, value in speeds.items()}


def test_a_float_that_is_slower_by_far_is_left_out_where_there_is_fp32() -> None:
    space, (notice,) = without_slow_floats(SPACE, baseline(bf16=0.1))
    assert [knob.schemes for knob in space.knobs] == [
        (Scheme.INT8, Scheme.FP32),
        (Scheme.FP32,),
        (Scheme.BF16,),
    ]
    assert "bf16 is left out at 2 of 3 knobs" in notice
    assert "15 times as long as all fp32 here (measured)" in notice


@pytest.mark.parametrize(("bf16", "kept"), [(0.5, ()), (0.1, (Scheme.BF16,))])
def test_one_that_is_a_little_slower_stays_and_so_does_one_that_is_asked_for(
    bf16: float, kept: tuple[Scheme, ...]
) -> None:
    assert without_slow_floats(SPACE, baseline(bf16), kept) == (SPACE, ())


def test_without_times_nothing_is_left_out() -> None:
    assert without_slow_floats(SPACE, {}) == (SPACE, ())


@pytest.mark.parametrize(
    ("changes", "is_so"),
    [
        ({}, True),
        ({"objectives": ["accuracy", "output_error", "latency"]}, True),
        ({"objectives": ["output_error", "latency", "size"]}, False),
        ({"constraints": {"size_ratio": 0.5}}, False),
        ({"objectives": ["output_error", "bops"]}, False),
    ],
)
def test_a_search_is_about_time_alone_unless_it_looks_at_another_cost(
    changes: dict[str, object], is_so: bool
) -> None:
    document = {
        "name": "job",
        "output": "out",
        "space": {"schemes": ["int8", "fp32"]},
        "objectives": ["output_error", "latency"],
        **changes,
    }
    assert SearchSettings.model_validate(document).is_about_time_alone is is_so
