"""Our own histogram, range search and grids against torch's observers, which they stand in for."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.ao.quantization import HistogramObserver, MinMaxObserver

from autoquant.core.ranges import ObserverName, RangeRules
from autoquant.model.calibration.ranges.find import find_range
from autoquant.model.calibration.ranges.grid import Grid, affine_grid, symmetric_grid
from autoquant.model.calibration.ranges.observation import TensorObserver

KINDS = ["normal", "relu", "tails", "shifted", "constant", "negative"]


def batches(kind: str, seed: int = 0) -> list[Tensor]:
    """Five batches; later ones are wider, so that histograms must merge."""
    draw = torch.Generator().manual_seed(seed)
    found = [torch.randn(8, 16, 13, generator=draw) * (1 + 0.2 * step) for step in range(5)]
    change = {
        "normal": lambda x: x,
        "relu": torch.relu,
        "tails": lambda x: x.sign() * x.abs() ** 3,
        "shifted": lambda x: x + 3,
        "constant": lambda x: torch.full_like(x, 0.75),
        "negative": lambda x: -x.abs() - 0.1,
    }[kind]
    return [change(item) for item in found]


@pytest.mark.parametrize("kind", KINDS)
def test_the_histogram_is_that_of_torch_bit_for_bit(kind: str) -> None:
    ours, theirs = TensorObserver(), HistogramObserver()
    for item in batches(kind):
        ours.observe(item)
        theirs(item)
    found = ours.statistics()
    assert found.histogram.tolist() == theirs.histogram.tolist()
    assert (found.low, found.high) == (float(theirs.min_val), float(theirs.max_val))


@pytest.mark.parametrize("reduce_range", [False, True], ids=["8-bit", "7-bit"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_of_histogram_is_that_of_torch_within_a_hundredth(
    kind: str, seed: int, *, reduce_range: bool
) -> None:
    ours = TensorObserver()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = HistogramObserver(reduce_range=reduce_range)
    for item in batches(kind, seed):
        ours.observe(item)
        theirs(item)
    high = 127 if reduce_range else 255
    ends = find_range(ObserverName.HISTOGRAM, ours.statistics(), high + 1, RangeRules())
    found = affine_grid(ends, high)
    scale, zero_point = theirs.calculate_qparams()
    # torch sums errors in float32: where two ranges err alike it stops some bins elsewhere
    assert found.scale == pytest.approx(float(scale), rel=0.01)
    assert abs(found.zero_point - int(zero_point)) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_grids_of_known_ranges_are_those_of_torch_bit_for_bit(kind: str) -> None:
    affine = MinMaxObserver(dtype=torch.quint8)
    symmetric = MinMaxObserver(
        dtype=torch.int16,
        qscheme=torch.per_tensor_symmetric,
        quant_min=-32768,
        quant_max=32767,
    )
    item = torch.cat(batches(kind))
    affine(item)
    symmetric(item)
    ends = float(item.min()), float(item.max())
    for found, observer in ((affine_grid(ends), affine), (symmetric_grid(ends), symmetric)):
        scale, zero_point = observer.calculate_qparams()
        assert (found.scale, found.zero_point) == (float(scale), int(zero_point))


def test_a_bin_of_many_values_counts_them_all() -> None:
    observer = TensorObserver()
    zeros = torch.zeros(1, 1 << 22)
    zeros[0, 0] = 1.0
    for _ in range(6):
        observer.observe(zeros)
    assert observer.statistics().histogram[0] == 6 * ((1 << 22) - 1)  # above 2^24


def test_ranges_by_channel_and_sample_are_those_of_the_raw_tensors() -> None:
    observer = TensorObserver()
    items = batches("tails")
    for item in items:
        observer.observe(item)
    found, whole = observer.statistics(), torch.cat(items)
    assert found.channel_low.tolist() == whole.amin((0, 2)).tolist()
    assert found.channel_high.tolist() == whole.amax((0, 2)).tolist()
    assert found.sample_high.tolist() == whole.amax((1, 2)).tolist()
    assert found.batch_low.tolist() == [float(item.min()) for item in items]


def test_sequences_of_other_lengths_have_no_ranges_by_channel() -> None:
    observer = TensorObserver()
    for length in (5, 7, 5):
        observer.observe(torch.randn(2, length, 8))
    found = observer.statistics()
    assert found.channel_low.size == 0
    assert found.sample_low.size == 6


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    tensor = torch.zeros(2, 3, 4)
    tensor[1, 1, 1] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        TensorObserver().observe(tensor)


@pytest.mark.parametrize("grid", [Grid(0.037, 91, 0, 255), Grid(1e-3, 0, -32768, 32767)])
def test_a_grid_rounds_as_torchs_fake_quantize_does(grid: Grid) -> None:
    values = torch.cat([torch.randn(4096) * 4, torch.tensor([0.0, 1e9, -1e9])])
    expected = torch.fake_quantize_per_tensor_affine(
        values, float(np.float32(grid.scale)), grid.zero_point, grid.low, grid.high
    )
    assert torch.equal(grid(values), expected)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_counts_are_those_of_torch_where_values_are_many_or_all_equal(shift: float) -> None:
    many = torch.randn(300_000, generator=torch.Generator().manual_seed(0)).relu() + shift
    for values in (many, torch.full((7,), shift)):
        observer = TensorObserver()
        observer.observe(values.reshape(1, -1))
        low, high = float(values.min()), float(values.max())
        counts = torch.histc(values, len(observer.statistics().histogram), min=low, max=high)
        assert np.array_equal(observer.statistics().histogram, counts.numpy())
