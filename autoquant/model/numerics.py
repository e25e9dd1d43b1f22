"""Quantize-dequantize, and how far two outputs are apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FixedFakeQuantize(nn.Module):
    """Round activations to an integer grid and back, at a fixed scale.

    y = (clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale, with ties to
    even (Jacob et al., CVPR 2018, eq. 12; the `quantize_per_tensor` of torch's decomposed ops).
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, low: int, high: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().reshape(()).to(torch.float32))
        self.register_buffer("zero_point", zero_point.detach().reshape(()).to(torch.int32))
        self.low = int(low)
        self.high = int(high)

    def forward(self, x: Tensor) -> Tensor:
        """Round each element; shape as given."""
        return torch.fake_quantize_per_tensor_affine(
            x, self.scale, self.zero_point, self.low, self.high
        )

    def extra_repr(self) -> str:
        """Scale and bits, for printing a model."""
        bits = (self.high - self.low).bit_length()
        return f"scale={float(self.scale):.3g}, bits={bits}"


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
