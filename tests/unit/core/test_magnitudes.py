"""Histograms whose bins are those of float32 say what the values themselves say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from autoquant.core.findings.magnitudes import BIN_COUNT, DROPPED_BITS, Magnitudes

Values = npt.NDArray[np.float32]


def magnitudes(values: Values) -> Magnitudes:
    bins = values.view(np.uint32) >> DROPPED_BITS
    return Magnitudes(np.bincount(bins, minlength=BIN_COUNT).astype(np.int64))


@pytest.fixture
def values() -> Values:
    return np.random.default_rng(0).laplace(size=200_000).astype(np.float32)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99, 0.9999])
def test_quantiles_are_known_to_one_part_in_sixteen(values: Values, share: float) -> None:
    expected = np.quantile(np.abs(values), share)
    assert magnitudes(values).quantile(share) == pytest.approx(expected, rel=1 / 16)


@pytest.mark.parametrize("step", [0.01, 0.3, 2.0])
def test_rounding_noise_is_that_of_rounding(values: Values, step: float) -> None:
    measured = np.mean((np.round(values / step) * step - values) ** 2)
    # at steps of the values' own size their density within a step is not even
    assert magnitudes(values).rounding_noise(step) == pytest.approx(measured, rel=0.25)


def test_fp16_noise_is_that_of_a_cast(values: Values) -> None:
    measured = np.mean((values.astype(np.float16).astype(np.float64) - values) ** 2)
    assert magnitudes(values).half_noise() == pytest.approx(measured, rel=0.05)


def test_fp16_noise_is_infinite_where_a_value_overflows() -> None:
    assert magnitudes(np.array([1.0, 70000.0], np.float32)).half_noise() == float("inf")


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 0.5), (-100.0, 100.0)])
def test_clipping_noise_is_that_of_clipping(values: Values, low: float, high: float) -> None:
    measured = np.mean((np.clip(values, low, high) - values) ** 2)
    assert magnitudes(values).clipping_noise(low, high) == pytest.approx(measured, rel=0.02)


def test_densities_are_those_of_a_linear_histogram(values: Values) -> None:
    edges = np.linspace(-4, 4, 9)
    expected = np.histogram(values, edges)[0] / len(values)
    assert magnitudes(values).densities(edges) == pytest.approx(expected, rel=0.03)


def test_zeros_have_no_noise() -> None:
    spread = magnitudes(np.zeros(8, np.float32))
    assert (spread.rounding_noise(1.0), spread.half_noise(), spread.power()) == (0.0, 0.0, 0.0)
