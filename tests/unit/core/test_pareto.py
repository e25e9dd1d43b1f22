"""Dominance and hypervolume, against slow obvious versions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.pareto import frontier_mask, hypervolume

coordinates = st.integers(0, 6)
points2 = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=12)
points3 = st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=8)


def by_counting_cells(losses: np.ndarray, reference: int) -> float:
    """Count unit cells of the integer grid that some point dominates."""
    axes = [range(reference)] * losses.shape[1]
    return float(
        sum(any((point <= cell).all() for point in losses) for cell in itertools.product(*axes))
    )


@given(points2)
def test_frontier_does_not_depend_on_the_order_of_points(rows: list[tuple[int, int]]) -> None:
    losses = np.array(rows, dtype=np.float64)
    assert (frontier_mask(losses[::-1])[::-1] == frontier_mask(losses)).all()


@given(points3)
def test_every_point_off_the_frontier_is_beaten_by_one_on_it(rows: list[tuple[int, ...]]) -> None:
    losses = np.array(rows, dtype=np.float64)
    mask = frontier_mask(losses)
    for point in losses[~mask]:
        assert any((other <= point).all() and (other < point).any() for other in losses[mask])


@pytest.mark.parametrize("dimensions", [points2, points3], ids=["two", "three"])
def test_hypervolume_equals_the_count_of_dominated_cells(dimensions: st.SearchStrategy) -> None:
    @given(dimensions)
    def check(rows: list[tuple[int, ...]]) -> None:
        losses = np.array(rows, dtype=np.float64)
        reference = np.full(losses.shape[1], 7.0)
        assert hypervolume(losses, reference) == by_counting_cells(losses, 7)

    check()


def test_points_beyond_the_reference_add_nothing() -> None:
    losses = np.array([[0.0, 9.0], [1.0, 1.0]])
    assert hypervolume(losses, np.array([3.0, 3.0])) == 4.0


def test_nan_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="without NaN"):
        frontier_mask(np.array([[np.nan, 0.0]]))


@given(
    st.integers(1, 3).flatmap(
        lambda m: st.lists(
            st.tuples(*[st.sampled_from([-1.0, 0.0, 0.5, 1.0, np.inf])] * m), max_size=12
        ).map(lambda rows: np.array(rows, dtype=np.float64).reshape(len(rows), m))
    )
)
def test_the_frontier_is_what_comparing_all_pairs_gives(losses: np.ndarray) -> None:
    slow = [
        not any((other <= point).all() and (other < point).any() for other in losses)
        for point in losses
    ]
    assert frontier_mask(losses).tolist() == slow
