"""Shared pairs are mappings like any other, and one object where they are equal."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.pairs import Pairs, shared
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme

mappings = st.dictionaries(st.text(max_size=3), st.sampled_from(["int8", "fp32"]))


@given(mappings, st.text(max_size=3))
def test_it_holds_what_the_dict_holds(mapping: dict[str, str], name: str) -> None:
    pairs = shared(mapping)
    assert pairs == mapping
    assert list(pairs) == sorted(mapping)
    assert len(pairs) == len(mapping)
    assert (name in pairs) == (name in mapping)
    assert pairs.get(name) == mapping.get(name)


def test_a_missing_name_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="b"):
        shared({"a": 1, "c": 2})["b"]


def test_plans_share_what_is_equal_in_them() -> None:
    first = Plan.of({"".join("ab"): Scheme.INT8, "c": Scheme.FP32})
    second = Plan.of({"".join("ab"): Scheme.INT8, "c": Scheme.INT8})
    assert first.assignment[0] is second.assignment[0]
    assert first.assignment[1] is not second.assignment[1]


def test_it_travels_between_processes() -> None:
    pairs = shared({"b": "int8", "a": "fp32"})
    again = pickle.loads(pickle.dumps(pairs))
    assert again == pairs
    assert isinstance(again, Pairs)
    assert shared(pairs) is pairs
