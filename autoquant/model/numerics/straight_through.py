"""Rounding that gradients pass straight through (Bengio et al., arXiv 1308.3432, sec. 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Rounded(torch.autograd.Function):
    """The rounded value forward; backward the gradient of the value where it was not clipped."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rounded: Tensor, inside: Tensor | None) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(inside)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return (gradients[0] if inside is None else gradients[0] * inside), None, None


def straight_through(
    value: Tensor,
    rounding: Callable[[Tensor], Tensor],
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Round a tensor, with the gradient of the identity inside the bounds and none beyond.

    Args:
        value: Any shape.
        rounding: Gives a tensor of the same shape.
        bounds: Where clipping begins; None: nowhere.

    Returns:
        `rounding(value)`, bit for bit.
    """
    with torch.no_grad():
        rounded = rounding(value)
        inside = None if bounds is None else (value >= bounds[0]) & (value <= bounds[1])
    found: Tensor = _Rounded.apply(value, rounded, inside)  # type: ignore[no-untyped-call]
    return found
