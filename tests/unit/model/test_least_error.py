"""The range of least error is found without trying every step of its walk."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoquant.model.calibration.ranges.density import Density, Range, with_zero
from autoquant.model.calibration.ranges.least_error import _expected_error, least_error_range

counts = st.lists(
    st.one_of(st.just(0.0), st.integers(1, 10).map(float), st.floats(0.1, 1e7)),
    min_size=1,
    max_size=40,
).filter(lambda found: sum(found) > 0)


def step_by_step(density: Density) -> Range:
    """The walk as torch has it: all of its hundred thousand steps."""
    below = np.cumsum(density.counts).tolist()
    start, stop, left, right, least = 0, len(below) - 1, 0, 0, np.inf
    while left + right < 100_000:
        first = bisect_left(below, (left + 1) * 1e-5 * below[-1])
        last = bisect_right(below, (1 - (right + 1) * 1e-5) * below[-1]) - 1
        low, high = max(start, min(first, stop)), min(stop, max(last, start))
        if low - start > stop - high:
            moved, left = (low, stop), left + 1
        else:
            moved, right = (start, high), right + 1
        if moved == (start, stop):
            continue
        error = _expected_error(density, *moved)
        if error > least:
            break
        least, (start, stop) = error, moved
    return with_zero(density.low + density.width * start, density.low + density.width * (stop + 1))


@settings(deadline=None, max_examples=50)
@given(found=counts, low=st.floats(-5, 5))
def test_the_range_is_that_of_the_walk_step_by_step(found: list[float], low: float) -> None:
    density = Density(np.array(found), low, low + 3.0)
    assert least_error_range(density) == step_by_step(density)


def test_tails_of_a_normal_density_are_clipped_as_step_by_step() -> None:
    values = np.random.default_rng(0).standard_normal(100_000) ** 3
    found, edges = np.histogram(values, bins=2048)
    density = Density(found.astype(float), float(edges[0]), float(edges[-1]))
    assert least_error_range(density) == step_by_step(density)
