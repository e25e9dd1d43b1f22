"""Quantize-dequantize of weights."""

from __future__ import annotations

import torch
from torch import Tensor


def fake_quantize_weight(
    weight: Tensor, scale: Tensor, zero_point: Tensor, *, axis: int | None, low: int, high: int
) -> Tensor:
    """Round a weight to an integer grid and back.

    Args:
        weight: Any shape.
        scale: Shape (channels,), or one element where `axis` is None.
        zero_point: As `scale`.
        axis: The channel axis, None for one scale for all.
        low: Smallest integer.
        high: Largest integer.

    Returns:
        A tensor of the weight's shape.
    """
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(
            weight, scale.reshape(()).float(), zero_point.reshape(()).int(), low, high
        )
    return torch.fake_quantize_per_channel_affine(
        weight, scale.float(), zero_point.to(torch.int32), axis, low, high
    )
