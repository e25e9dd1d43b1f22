"""What a scheme does to one tensor: reference numerics, op by op."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoquant.core.precision import Mode, Precision, Scheme
from autoquant.core.sites import LOOKUPS, OpKind, Site
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.numerics.weight_grids import GroupGrid, RowGrid, WeightGrid, weight_grid


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


_FLOATS = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


@dataclass(frozen=True, slots=True)
class DynamicGrid:
    """Round to 8 bits at the scale of this very batch, as torch's dynamic kernels do."""

    def __call__(self, value: Tensor) -> Tensor:
        """Round each element; shape as given."""
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
        scale = max((high - low) / 255.0, torch.finfo(torch.float32).eps)
        zero_point = min(max(round(-low / scale), 0), 255)
        return Grid(scale, zero_point, 0, 255)(value)


@dataclass(frozen=True, slots=True)
class Cast:
    """Round to a narrower float and back."""

    dtype: torch.dtype

    def __call__(self, value: Tensor) -> Tensor:
        """Round each element; shape as given."""
        return value.to(self.dtype).to(torch.float32)


_COMPUTED_IN_FLOAT = frozenset({OpKind.ACTIVATION, OpKind.NORM})
"""Kinds whose kernels hold what they read in floats, where its writer hands out such."""

Format = Grid | DynamicGrid | Cast | WeightGrid | RowGrid | GroupGrid
"""How a tensor is rounded; equal formats round equally."""


class SchemeRounding:
    """Tells how a site's tensors are rounded under each of its schemes.

    Rounding belongs to reads: an op in integers rounds the tensors that it reads, each to that
    tensor's own grid, and its weights, and gives its result unrounded; whoever reads that in
    integers rounds it. Floats of 16 bits round what they write as well, and so do integer kernels
    that have no float result.

    Args:
        ranges: Grids by tensor.
        integer_writers: Kinds and static schemes whose kernels write integers, whoever reads them.
    """

    def __init__(
        self,
        ranges: TensorRanges,
        integer_writers: Collection[tuple[OpKind, Scheme]] = frozenset(),
    ) -> None:
        self._ranges = ranges
        self._integer_writers = integer_writers

    def weight_format(self, site: Site, scheme: Scheme) -> Format | None:
        """How the scheme rounds the site's weights; None: not at all."""
        if scheme.weight in _FLOATS:
            return Cast(_FLOATS[scheme.weight]) if site.kind.is_weighted else None
        return weight_grid(site.kind, scheme, self._ranges.weight_bits)

    def read_format(self, site: Site, scheme: Scheme, tensor: str) -> Format | None:
        """How a tensor is rounded where the site reads it; None: not at all (a mask fills it).

        An activation or a norm that follows another site takes what that writes, as it is.
        """
        if has_narrow_floats(site, scheme):
            return Cast(_FLOATS[scheme.activation])
        if site.follows is not None and site.kind in _COMPUTED_IN_FLOAT:
            return None
        if site.kind in LOOKUPS or scheme.mode is Mode.WEIGHT_ONLY or scheme is Scheme.FP32:
            return None
        if scheme.mode is Mode.DYNAMIC:
            return DynamicGrid() if site.kind.is_weighted else None
        return self._grid(scheme, tensor) if self._ranges.knows(tensor) else None

    def write_format(self, site: Site, scheme: Scheme, tensor: str) -> Format | None:
        """How a tensor is rounded where the site writes it; None: not at all."""
        if has_narrow_floats(site, scheme):
            return Cast(_FLOATS[scheme.activation])
        if (site.kind, scheme) not in self._integer_writers or not self._ranges.knows(tensor):
            return None
        return self._grid(scheme, tensor)

    def result_grid(self, scheme: Scheme, tensor: str) -> Grid | None:
        """The grid on which a scheme's readers keep a tensor; None: on none that is fixed."""
        is_fixed = scheme.activation in (Precision.INT8, Precision.INT16)
        static = is_fixed and scheme.mode is Mode.STATIC and self._ranges.knows(tensor)
        return self._grid(scheme, tensor) if static else None

    def _grid(self, scheme: Scheme, tensor: str) -> Grid:
        """Grid of a tensor under a static integer scheme."""
        if scheme.activation is Precision.INT16:
            return self._ranges.int16_grid(tensor)
        if scheme.activation is Precision.INT8:
            return self._ranges.int8_grid(tensor)
        raise ValueError(f"{scheme.value} has no grid for activations")

    def weight(self, site: Site, scheme: Scheme, weight: Tensor) -> Tensor:
        """Round a weight; shape as given."""
        rounding = self.weight_format(site, scheme)
        return weight if rounding is None else rounding(weight)


def has_narrow_floats(site: Site, scheme: Scheme) -> bool:
    """Whether a site reads and writes floats of 16 bits; what follows integer weights does not."""
    is_its_own = scheme.mode is not Mode.WEIGHT_ONLY or site.kind.is_weighted
    return scheme.activation in _FLOATS and is_its_own


def round_straight(rounding: Format, value: Tensor) -> Tensor:
    """Round with the straight-through gradient; a fixed grid passes none where it clips."""
    if isinstance(rounding, Grid):
        half = rounding.scale / 2
        return straight_through(value, rounding, (rounding.lowest - half, rounding.highest + half))
    return straight_through(value, rounding)
