"""Streamed sums give what the whole tensors in memory give."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from autoquant.comparing.sums import PairSums
from autoquant.core.findings.layers import LayerError, Moments

CASES = {
    "images": (24, 8, 16, 16),
    "wide images": (5, 32, 48, 48),
    "vectors": (70, 10),
    "sequences": (12, 7, 33),
}


def pair(shape: tuple[int, ...], noise: float = 0.02) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    expected = torch.relu(torch.randn(shape, generator=draw) + 0.3)
    return expected, expected + noise * torch.randn(shape, generator=draw)


def stream(expected: Tensor, found: Tensor, size: int) -> PairSums:
    sums = PairSums()
    for first, second in zip(expected.split(size), found.split(size), strict=True):
        sums.add(first, second, len(first))
    return sums


def oracle(expected: Tensor, found: Tensor) -> LayerError:
    """Every figure, slowly, from the definition, in double precision and in memory."""
    x, y = (item.double().flatten(1) for item in (expected, found))
    error = y - x
    floor = x.abs().amax(1, keepdim=True) / 256
    p, q = torch.log_softmax(x, 1), torch.log_softmax(y, 1)
    return LayerError(
        sqnr_db=10 * math.log10(float((x**2).sum() / (error**2).sum())),
        cosine=float(torch.cosine_similarity(x, y, 1).mean()),
        mse=float((error**2).mean()),
        l1=float(error.abs().mean()),
        kl=float((p.exp() * (p - q)).sum(1).mean()),
        max_absolute=float(error.abs().max()),
        max_relative=float((error.abs() / torch.maximum(x.abs(), floor)).max()),
        max_steps=float(error.abs().max()) / 0.5,
    )


def figures(error: LayerError) -> list[float]:
    values: Iterable[float | None] = (getattr(error, name) for name in error.__slots__)
    return [value for value in values if value is not None]


@pytest.mark.parametrize("noise", [1e-3, 0.02, 0.5, 100.0])
@pytest.mark.parametrize("shape", CASES.values(), ids=CASES)
def test_every_figure_is_that_of_the_definition(shape: tuple[int, ...], noise: float) -> None:
    expected, found = pair(shape, noise)
    # exponentials and errors are taken in single precision, sums in double
    assert figures(stream(expected, found, 4).error(0.5)) == pytest.approx(
        figures(oracle(expected, found)), rel=2e-4
    )


@pytest.mark.parametrize("shape", CASES.values(), ids=CASES)
def test_moments_are_those_of_all_elements(shape: tuple[int, ...]) -> None:
    expected, found = pair(shape)
    for moments, value in zip(stream(expected, found, 4).moments(), (expected, found), strict=True):
        exact = value.double()
        assert moments == Moments(
            float(value.min()),
            float(value.max()),
            pytest.approx(float(exact.mean()), rel=1e-6),
            pytest.approx(float(exact.var(correction=0)), rel=1e-6),
        )


def test_figures_do_not_depend_on_batches_or_memory_formats() -> None:
    expected, found = pair(CASES["images"])
    whole = stream(expected, found, 24)
    turned = stream(expected.to(memory_format=torch.channels_last), found.contiguous(), 5)
    assert figures(turned.error(1.0)) == pytest.approx(figures(whole.error(1.0)), rel=1e-6)
    assert turned.peaks is not None
    assert torch.equal(turned.peaks, expected.amax((0, 2, 3)))


def test_a_large_offset_does_not_drown_a_small_error() -> None:
    expected = torch.full((4, 1000), 4096.0)
    found = expected + 2**-10  # one unit in the last place
    assert stream(expected, found, 1).error(None).mse == pytest.approx(2**-20, rel=1e-9)


def test_quantized_tensors_are_read_as_what_they_stand_for() -> None:
    expected, _ = pair(CASES["images"])
    rounded = torch.quantize_per_tensor(expected, 0.05, 3, torch.quint8)
    assert figures(stream(expected, rounded.dequantize(), 8).error(0.05)) == pytest.approx(
        figures(_quantized(expected, rounded).error(0.05))
    )


def _quantized(expected: Tensor, rounded: Tensor) -> PairSums:
    sums = PairSums()
    sums.add(expected, rounded, len(expected))
    return sums


def test_equal_tensors_are_exact() -> None:
    expected, _ = pair(CASES["vectors"])
    error = stream(expected, expected.clone(), 7).error(1.0)
    assert (error.sqnr_db, error.kl, error.max_absolute) == (150.0, 0.0, 0.0)
    assert error.cosine == pytest.approx(1.0)


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    expected, found = pair(CASES["vectors"])
    found[3, 4], expected[5, 6] = math.nan, -math.inf
    found[7, 0], expected[7, 0] = 3e38, -3e38  # their difference overflows
    sums = stream(expected, found, 8)
    assert sums.not_finite == 3
    assert math.isfinite(sums.error(1.0).mse)


def test_histograms_of_long_data_stand_for_all_elements() -> None:
    expected, found = pair((64, 4, 128, 128))
    first, _ = stream(expected, found, 8).magnitudes()
    assert first.total == pytest.approx(expected.numel(), rel=0.6)
    exact = float(expected.flatten().double().square().mean())
    assert first.power() == pytest.approx(exact, rel=0.02)


def test_memory_does_not_grow_with_samples() -> None:
    sums = PairSums()
    expected, found = pair(CASES["vectors"])
    sums.add(expected, found, 70)
    before = len(pickle.dumps(vars(sums)))
    for _ in range(40):
        sums.add(expected, found, 70)
    assert len(pickle.dumps(vars(sums))) == pytest.approx(before, abs=64)  # counters grow digits
    assert sums.samples == 41 * 70
