"""Ranges found from the histogram of one pass, against the raw tensors and against hand counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.ao.quantization import MovingAverageMinMaxObserver

from autoquant.core.statistics import ObserverName
from autoquant.model.calibration.ranges.density import Density, Range
from autoquant.model.calibration.ranges.find import FROM_HISTOGRAM, moving_average_range
from autoquant.model.calibration.ranges.kl import divergence
from autoquant.model.calibration.ranges.mse import mean_squared_error
from autoquant.model.calibration.ranges.observation import TensorObserver

LEVELS = 256
BINS = 2048
Floats = npt.NDArray[np.float64]


def batches(kind: str) -> list[Floats]:
    """Eight batches of 20,000 values; later batches are wider, so that histograms must merge."""
    draw = np.random.default_rng(0)
    found = [draw.standard_normal(20_000) * (1 + 0.1 * index) for index in range(8)]
    if kind == "relu":
        return [np.maximum(item, 0.0) for item in found]
    if kind == "tails":
        return [np.sign(item) * np.abs(item) ** 2.5 for item in found]
    if kind == "shifted":
        return [item + 3.0 for item in found]
    return found


def seen(kind: str) -> tuple[Density, Floats]:
    """The density of one pass with torch's merging histogram, and all raw values."""
    observer = TensorObserver()
    raw = [item.astype(np.float32) for item in batches(kind)]
    for item in raw:
        observer.observe(torch.from_numpy(item).reshape(100, -1))
    found = observer.statistics()
    density = Density(found.histogram.astype(np.float64), found.histogram_low, found.histogram_high)
    return density, np.concatenate(raw).astype(np.float64)


def exact(raw: Floats) -> Density:
    """The histogram of all raw values at once, over exactly their range."""
    counts, edges = np.histogram(raw, bins=BINS)
    return Density(counts.astype(np.float64), float(edges[0]), float(edges[-1]))


def raw_error(raw: Floats, ends: Range) -> float:
    return mean_squared_error(raw, np.ones_like(raw), ends, LEVELS)


kinds = pytest.mark.parametrize("kind", ["normal", "relu", "tails", "shifted"])


@kinds
@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_as_many_raw_values_lie_beyond_a_percentile_of_one_pass_as_should(
    kind: str, percentile: float
) -> None:
    density, raw = seen(kind)
    low, high = FROM_HISTOGRAM[ObserverName.PERCENTILE](density, LEVELS, percentile)
    wanted = len(raw) * (1 - percentile / 100)
    # one bin for where in it a value lies, one for values that merging moved to the next
    slack = 2 * density.width
    assert (raw > high + slack).sum() <= wanted + 1
    assert (raw > high - slack).sum() >= wanted - 1
    if low < 0:
        assert (raw < low - slack).sum() <= wanted + 1
        assert (raw < low + slack).sum() >= wanted - 1


@kinds
def test_the_range_of_mse_errs_on_the_raw_tensors_at_most_a_twentieth_more_than_any(
    kind: str,
) -> None:
    density, raw = seen(kind)
    found = raw_error(raw, FROM_HISTOGRAM[ObserverName.MSE](density, LEVELS, 0.0))
    low, high = min(raw.min(), 0.0), raw.max()
    rivals = [
        raw_error(raw, (low * a, high * b))
        for b in np.linspace(0.4, 1.0, 13)
        for a in (np.linspace(0.4, 1.0, 13) if low < 0 else [1.0])
    ]
    assert found <= 1.05 * min(rivals)


@kinds
def test_the_range_of_kl_diverges_on_the_raw_tensors_hardly_more_than_theirs(kind: str) -> None:
    density, raw = seen(kind)
    of_all = exact(raw)

    def diverges(ends: Range) -> float:
        start, stop = (round((end - of_all.low) / of_all.width) for end in ends)
        return divergence(of_all.counts, max(start, 0), min(stop, BINS), LEVELS)

    of_pass = FROM_HISTOGRAM[ObserverName.KL](density, LEVELS, 0.0)
    of_raw = FROM_HISTOGRAM[ObserverName.KL](of_all, LEVELS, 0.0)
    # merging fills the empty bins of long tails, and the divergence counts which bins are empty;
    # where tails are short the two agree
    slack = 0.05 if kind == "tails" else 0.002
    assert diverges(of_pass) <= diverges(of_raw) + slack


def test_kl_finds_a_threshold_nearly_as_good_as_the_slow_published_loop() -> None:
    _, raw = seen("relu")
    density = exact(raw[raw > 0])
    found = FROM_HISTOGRAM[ObserverName.KL](density, 128, 0.0)
    counts = density.counts.copy()
    counts[0] = counts[1]
    losses = [slow_divergence(counts, stop, 128) for stop in range(1024, BINS + 1, 16)]
    stop = round(found[1] / density.width)
    # the scan looks at 96 thresholds, the loop at others
    assert slow_divergence(counts, stop, 128) <= min(losses) + 0.001
    assert found[0] == 0.0


def slow_divergence(counts: Floats, stop: int, levels: int) -> float:
    """Migacz, GTC 2017, slide "Pseudocode", with the cells of equal share that numpy makes."""
    p = counts[:stop].copy()
    p[-1] += counts[stop:].sum()
    q = np.zeros(stop)
    cells = np.arange(stop) * levels // stop
    for cell in range(levels):
        inside = np.flatnonzero(cells == cell)
        filled = [index for index in inside if counts[index] > 0]
        for index in filled:
            q[index] = counts[inside].sum() / len(filled)
    p, q = p / p.sum(), q / q.sum()
    return sum(float(a * np.log(a / max(b, 1e-12))) for a, b in zip(p, q, strict=True) if a > 0)


def test_the_fast_divergence_is_the_slow_one() -> None:
    counts = np.random.default_rng(1).integers(0, 5, 700).astype(np.float64)
    for stop in (300, 511, 700):
        assert divergence(counts, 0, stop, 100) == pytest.approx(
            slow_divergence(counts, stop, 100), rel=1e-9
        )


@pytest.mark.parametrize("name", list(FROM_HISTOGRAM), ids=lambda item: item.value)
def test_a_single_far_value_among_many_is_clipped(name: ObserverName) -> None:
    draw = np.random.default_rng(2)
    raw = np.append(np.abs(draw.standard_normal(200_000)), 25.0)
    many = exact(raw)
    many.counts[:-1] *= 100.0  # 20 million values, of which one is 25
    low, high = FROM_HISTOGRAM[name](many, LEVELS, 99.99)
    assert low == pytest.approx(0.0, abs=many.width)
    assert 2.5 < high < 12.0


@pytest.mark.parametrize("name", list(FROM_HISTOGRAM), ids=lambda item: item.value)
def test_every_range_holds_zero_even_where_no_value_is_near_it(name: ObserverName) -> None:
    density, _ = seen("shifted")
    above = Density(density.counts, 5.0, 9.0)
    low, high = FROM_HISTOGRAM[name](above, LEVELS, 99.0)
    assert low == 0.0
    assert 6.0 < high <= 9.0


@pytest.mark.parametrize("averaging", [0.01, 0.37, 1.0])
def test_the_moving_average_is_that_of_torch_bit_for_bit(averaging: float) -> None:
    observer = MovingAverageMinMaxObserver(averaging_constant=averaging)
    drawn = [torch.from_numpy(item.astype(np.float32)) for item in batches("shifted")]
    for item in drawn:
        observer(item)
    lows = np.array([float(item.min()) for item in drawn], dtype=np.float32)
    highs = np.array([float(item.max()) for item in drawn], dtype=np.float32)
    found = moving_average_range(lows, highs, averaging)
    assert found == (float(observer.min_val), float(observer.max_val))


def test_a_moving_average_by_hand() -> None:
    lows, highs = np.float32([-1.0, -3.0]), np.float32([1.0, 2.0])
    assert moving_average_range(lows, highs, 0.5) == (-2.0, 1.5)


def test_squared_error_by_hand() -> None:
    # a grid of 0, 1, 2, 3: 0.25 errs by 0.25, 5 is clipped to 3
    points, weights = np.array([0.25, 2.0, 5.0]), np.array([2.0, 1.0, 1.0])
    expected = (2 * 0.25**2 + 0.0 + 2.0**2) / 4
    assert mean_squared_error(points, weights, (0.0, 3.0), 4) == pytest.approx(expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Density(np.ones(4), 1.0, 1.0),
        lambda: Density(np.zeros(4), 0.0, 1.0),
    ],
    ids=["no-width", "no-values"],
)
def test_a_density_of_nothing_is_refused(make: Callable[[], Density]) -> None:
    with pytest.raises(ValueError, match="needs counts between two edges"):
        make()
