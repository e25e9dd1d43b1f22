from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.backends.litert.constants import accumulates_in_int32, store_bias, store_weight


@given(
    st.lists(
        st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=2, max_size=4
    )
)
def test_a_stored_weight_is_within_half_a_step_of_its_own_channel(rows: list[list[float]]) -> None:
    weight = np.array(rows, np.float32)
    stored = store_weight(weight, 0)
    restored = stored.values * stored.scales[:, None].astype(np.float64)
    # the scale itself is rounded to float32
    assert (np.abs(restored - weight) <= 0.5001 * stored.scales[:, None] + 1e-9).all()
    assert np.abs(stored.values.astype(int)).max() <= 127


def test_the_largest_weight_of_each_channel_is_127() -> None:
    weight = np.array([[[1.0, -2.0]], [[0.5, 0.25]]], np.float32)
    assert np.abs(store_weight(weight, 0).values.astype(int)).max(axis=(1, 2)).tolist() == [127] * 2
    assert store_weight(weight, 2).scales == pytest.approx([1 / 127, 2 / 127])


def test_a_bias_is_counted_in_steps_of_each_channel() -> None:
    bias = np.array([1.0, -1.0], np.float32)
    assert store_bias(bias, np.array([0.5, 0.25])).tolist() == [2, -4]


@pytest.mark.parametrize(
    ("elements", "bias", "fits"),
    [(500, 0, True), (600, 0, False), (500, 2**31 - 1, False)],
    ids=["short enough", "too long", "bias too large"],
)
def test_sums_of_extreme_inputs_decide_whether_int32_holds_them(
    elements: int, bias: int, fits: bool
) -> None:
    weight = store_weight(np.ones((2, elements), np.float32), 0)
    # 2**31 / (127 * 32768) = 516 products of the largest weight and the largest input
    assert accumulates_in_int32(weight, np.array([bias, 0])) is fits
