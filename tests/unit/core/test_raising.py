"""The most sensitive knobs are raised, whole and no others."""

from __future__ import annotations

import dataclasses

import pytest

from autoquant.core.precision import Scheme
from autoquant.core.raised_plans import raise_most_sensitive
from autoquant.core.sensitivity import Measure, Method, Part, SensitivityRow, SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import PlanError

ALL = (Scheme.INT8, Scheme.INT16, Scheme.FP16)
SPACE = SearchSpace(
    (
        Knob("a", ("a",), ALL),
        Knob("b", ("b", "b:relu"), ALL),
        Knob("c", ("c",), (Scheme.INT8, Scheme.FP16)),
        Knob("d", ("d",), ALL),
        Knob("pinned", ("pinned",), (Scheme.FP16,)),
    )
)
NOISE = {"a": 0.001, "b": 0.1, "c": 0.05, "d": 0.0}


def row(knob: str, noise: float) -> SensitivityRow:
    return SensitivityRow(
        knob, Scheme.INT8, Part.BOTH, 0.0, None, None, None, None, noise, 0.0, Method.GRADIENT
    )


TABLE = SensitivityTable(
    tuple(row(name, noise) for name, noise in NOISE.items()), "made up", 1, space=SPACE
)


@pytest.mark.parametrize(
    ("ratio", "raised"),
    [
        (0.0, {}),
        (0.01, {"b": "int16", "b:relu": "int16"}),
        (0.5, {"b": "int16", "b:relu": "int16", "c": "fp16"}),
        (1.0, {"a": "int16", "b": "int16", "b:relu": "int16", "c": "fp16", "d": "int16"}),
    ],
    ids=["none", "at least one", "half", "all"],
)
def test_the_noisiest_share_of_the_knobs_is_raised_with_all_their_sites(
    ratio: float, raised: dict[str, str]
) -> None:
    plan = raise_most_sensitive(TABLE, ratio=ratio, scheme="int16")
    others = dict.fromkeys(["a", "b", "b:relu", "c", "d"], "int8")
    assert plan.to_json() == {**others, **raised, "pinned": "fp16"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 1.2}, "ratio 1.2 is not from 0 to 1"),
        ({"ratio": 0.2, "scheme": "bf16"}, "'bf16' is no scheme of this search space"),
        ({"ratio": 0.2, "base": "bf16"}, "'bf16' is no scheme of this search space"),
    ],
    ids=["ratio", "scheme", "base"],
)
def test_what_cannot_be_raised_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        raise_most_sensitive(TABLE, **arguments)  # type: ignore[arg-type]


def test_a_second_scheme_is_put_on_top_of_the_first() -> None:
    """Ranked by what each knob has by then: `b` in int16 is worse than `a` in int8."""
    int16 = [dataclasses.replace(row(name, 0.5), scheme=Scheme.INT16) for name in ("b", "c")]
    table = dataclasses.replace(TABLE, rows=(*TABLE.rows, *int16))
    wide = raise_most_sensitive(table, count=2, scheme="int16")
    half = raise_most_sensitive(table, count=1, scheme="fp16", base=wide)
    assert wide.counts() == {"int8": 2, "int16": 2, "fp16": 2}
    changed = {site: half[site].value for site in half.schemes if half[site] is not wide[site]}
    assert changed == {"b": "fp16", "b:relu": "fp16"}


def test_another_measure_ranks_where_the_table_says_it() -> None:
    rows = tuple(dataclasses.replace(item, l1=1 - item.noise) for item in TABLE.rows)
    table = dataclasses.replace(TABLE, rows=rows)
    assert raise_most_sensitive(table, count=1, by=Measure.L1)["d"] is Scheme.INT16
    with pytest.raises(PlanError, match="does not say kl"):
        raise_most_sensitive(table, count=1, by=Measure.KL)


def test_a_table_without_its_space_asks_for_it() -> None:
    bare = SensitivityTable(TABLE.rows, "made up", 1)
    with pytest.raises(PlanError, match="does not say which sites"):
        raise_most_sensitive(bare, ratio=0.2)
    with_space = raise_most_sensitive(bare, ratio=0.2, space=SPACE)
    assert with_space == raise_most_sensitive(TABLE, ratio=0.2)
