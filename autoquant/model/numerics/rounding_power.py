"""The power that a tensor's rounding errors have at the outputs, from its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.numerics.rounding import Cast, Format

_TILE = 1 << 18
_EVERY = 4


def powers_of_samples(
    how: Format, value: Tensor, gradients: Sequence[Tensor], samples: int
) -> list[Tensor]:
    """Estimate ||J d||^2 of each sample, for the rounding error d = how(value) - value.

        ||J d||^2 = E[sum_c (sum_{i in c} g_i d_i)^2]

    over gradients g = J^T v of random signs v at the outputs, c running over channels: dimension
    1 of images, else the last. Where nothing is clipped, errors are many and alike, and those of
    every fourth sample stand for all.

    Args:
        how: Rounds the tensor.
        value: Shape (samples, channels, height, width...) or (samples, ..., channels). Powers of
            a tensor whose first dimension is something else are spread evenly over the samples.
        gradients: Each as `value`: for the whole tensor, or for one of its readers.
        samples: How many there are.

    Returns:
        For each gradient, shape (samples,).
    """
    if value.ndim == 0:
        value, gradients = value.reshape(1), [gradient.reshape(1) for gradient in gradients]
    powers = [torch.zeros(len(value)) for _ in gradients]
    # memory of tiles below some size goes from op to op without page faults: four times as fast
    rows = max(1, _TILE * len(value) // max(1, value.numel()))
    for start in range(0, len(value), rows):
        tile = slice(start, start + rows)
        some = slice(start, start + rows, 1 if _may_clip(how, value[tile]) else _EVERY)
        error = how(value[some]).sub_(value[some])
        share = len(value[tile]) / len(error)
        for power, gradient in zip(powers, gradients, strict=True):
            power[some] = share * _powers_of_rows(error * gradient[some])
    if len(value) != samples:
        return [(power.sum() / samples).expand(samples) for power in powers]
    return powers


def _powers_of_rows(product: Tensor) -> Tensor:
    """Add up sum_c (sum_{i in c} p_i)^2 of each row."""
    if product.ndim > 3:
        dots = product.flatten(2).sum(2)
    elif product.ndim == 3:
        dots = product.sum(1)
    else:
        dots = product.reshape(len(product), -1)
    return dots.square_().sum(1)


def _may_clip(how: Format, value: Tensor) -> bool:
    if isinstance(how, Cast):
        return False
    if not isinstance(how, Grid):
        return True
    low, high = value.aminmax()
    return bool(low < how.lowest) or bool(high > how.highest)


def powers_of_channels(error: Tensor, gradient: Tensor) -> Tensor:
    """Estimate ||J d||^2 of a weight's rounding error, summed over the samples of a chunk.

    The gradient is the sum over the samples, whose signs are independent, so that the expectation
    of (sum_n g_n . d)^2 is the sum of the samples' powers; channels are rows.

    Returns:
        Shape (channels,): the power of each.
    """
    product = error * gradient
    if product.ndim == 0:
        product = product.reshape(1)
    return product.reshape(len(product), -1).sum(1).square_()
