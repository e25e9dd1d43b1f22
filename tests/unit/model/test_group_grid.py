"""int4 weights by group, by hand and by property."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.precision import BY_GROUP, PerGroup, Scheme
from autoquant.core.sites import OpKind
from autoquant.model.numerics.weight_grids import GroupGrid, weight_grid


def test_the_largest_value_of_a_group_lies_on_the_last_level_whatever_its_sign() -> None:
    weight = torch.tensor([[0.8, -0.1, 0.24, -0.4]])
    levels, scales = GroupGrid(2).codes(weight)
    # 0.8 / -8 = -0.1 and -0.4 / -8 = 0.05
    torch.testing.assert_close(scales, torch.tensor([[-0.1, 0.05]]))
    assert levels.tolist() == [[[-8, 1], [5, -8]]]
    torch.testing.assert_close(GroupGrid(2)(weight), torch.tensor([[0.8, -0.1, 0.25, -0.4]]))


def test_a_group_of_zeros_stays_zero_and_a_short_one_is_rounded_alone() -> None:
    weight = torch.tensor([[0.0, 0.0, 8.0]])
    assert GroupGrid(2)(weight).tolist() == weight.tolist()


@given(rows=st.integers(1, 4), columns=st.integers(1, 70), size=st.sampled_from([1, 8, 32]))
def test_no_weight_moves_by_more_than_one_step_of_its_group(
    rows: int, columns: int, size: int
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    grid = GroupGrid(size)
    steps = grid.codes(weight)[1].abs().repeat_interleave(size, 1)[:, :columns]
    found = grid(weight)
    # half a step, but one beside the level that the other sign lacks
    assert ((found - weight).abs() <= steps * 1.0001).all()
    # levels are codes again, where the scale is not halved by a rounded largest value
    torch.testing.assert_close(grid(found), found)


def test_schemes_say_their_group_and_no_convolution_has_one() -> None:
    assert [scheme.granularity for scheme in BY_GROUP] == [PerGroup(n) for n in (128, 64, 32)]
    assert weight_grid(OpKind.LINEAR, Scheme.INT4_WEIGHT_ONLY) == GroupGrid(32)
    assert weight_grid(OpKind.ACTIVATION, Scheme.INT4_WEIGHT_ONLY) is None
    with pytest.raises(ValueError, match="no weights of conv2d are stored as int4_weight_only"):
        weight_grid(OpKind.CONV2D, Scheme.INT4_WEIGHT_ONLY)
