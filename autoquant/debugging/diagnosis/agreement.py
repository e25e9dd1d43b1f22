"""How far a kernel is from its reference, counted in what rounding explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoquant.core.precision import Precision, Scheme
from autoquant.core.sites import OpKind
from autoquant.model.calibration.ranges.grid import Grid

_ROUNDOFF = 2.0**-24 * 2**6
"""Roundings of a sum of 2**12 products in float32, over the largest value: errors of n terms grow
like sqrt(n) (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 2.8)."""
_HALF = {Precision.FP16: 2.0**-11, Precision.BF16: 2.0**-8}
"""Unit roundoff of the floats of 16 bits, in which a kernel may add up too."""
_SIGMAS = 10.0
"""No normal error of a fair billion is beyond 6; where inputs line up with the roundings of a
channel's few weights 7.7 was seen (a convolution of 27 weights for each channel)."""
_SEQUENCES = 3
"""Of tensors with more axes the channels are the second, of others the last."""
_OVER_LENGTHS = frozenset({OpKind.CONV1D, OpKind.CONV_TRANSPOSE1D})


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What an op should give.

    Attributes:
        kind: Of the op.
        scheme: What it computes in.
        rounded: By reference numerics.
        exact: By the float op on the same inputs; what lies between the two is the scheme's noise.
        grids: On which the op may keep its result in integers: its own first.
    """

    kind: OpKind
    scheme: Scheme
    rounded: Tensor
    exact: Tensor
    grids: Sequence[Grid] = ()


@dataclass(slots=True)
class Agreement:
    """What was seen of one site.

    Attributes:
        worst: Largest difference of any batch, in what rounding explains; above 1 it does not.
        beyond: Elements that differ by more than rounding explains.
        elements: Elements compared.
    """

    worst: float = 0.0
    beyond: int = 0
    elements: int = 0

    @property
    def share(self) -> float:
        """Share of the elements that differ by more than rounding explains."""
        return self.beyond / max(self.elements, 1)

    def add(self, found: Tensor, reference: Reference) -> None:
        """Take in one call.

        An element is right where it is as near the reference as two roundings of nearly the same
        number are (a step of the result's own grid, or the roundoff of a sum), or where it is as
        near the float op as that scheme's noise there lets it be: a kernel may have its weights on
        another grid, an equally fine one.
        """
        ratio = differences(found, reference).nan_to_num(nan=torch.inf)
        self.worst = max(self.worst, float(ratio.max()))
        self.beyond += int((ratio > 1.0).sum())
        self.elements += ratio.numel()


def differences(found: Tensor, reference: Reference) -> Tensor:
    """Difference over what rounding explains, element by element."""
    values = [item.double() for item in (found, reference.rounded, reference.exact)]
    step = max((grid.scale for grid in reference.grids), default=0.0)
    for grid in reference.grids[:1]:
        values = [item.clamp(grid.lowest, grid.highest) for item in values]
    have, rounded, exact = values
    largest = float(rounded.abs().max()) or 1.0
    near = step + (_ROUNDOFF + 2.0 * _HALF.get(reference.scheme.activation, 0.0)) * largest
    noise = _SIGMAS * _noise(rounded - exact, reference.kind).sqrt()
    return torch.minimum((have - rounded).abs() / near, (have - exact).abs() / (near + noise))


def _noise(error: Tensor, kind: OpKind) -> Tensor:
    """Power of a scheme's noise at each element.

    Of an op with weights it is the product of what it reads there and of its channel's step, so
    that the means over the rest and over the channel tell it; it is nowhere taken to be less than
    the mean of all.
    """
    power = error.square()
    if power.ndim < 2:
        return power.mean()
    is_second = power.ndim > _SEQUENCES or kind in _OVER_LENGTHS
    channel = 1 if is_second else power.ndim - 1
    others = [axis for axis in range(power.ndim) if axis != channel]
    whole = power.mean()
    apart = power.mean(channel, keepdim=True) * power.mean(others, keepdim=True)
    return torch.maximum(apart / whole.clamp_min(torch.finfo(power.dtype).tiny), whole)
