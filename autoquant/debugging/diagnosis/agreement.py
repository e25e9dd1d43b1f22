"""How far a kernel is from its reference, counted in what rounding explains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoquant.core.precision import Mode
from autoquant.debugging.diagnosis.reference_op import Reference
from autoquant.model.calibration.ranges.grid import Grid

_UNIT_ROUNDOFF = {
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
_LONGEST_SUM = 2**12
"""Terms of a sum whose roundings are allowed for: errors of n terms grow like sqrt(n)
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 2.8)."""


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


def compare_values(seen: Agreement, found: Tensor, grid: Grid | None, reference: Reference) -> None:
    """Take in one call, whose integers lie on a grid.

    - An integer output: kernel and reference round two nearly equal numbers to the nearest
      step, so they differ by one step at most, where the numbers lie on both sides of a tie.
    - A float output of a kernel that rounds by itself (dynamic, weight-only): it may place its
      grid elsewhere, an equally fine one. Two such roundings are independent, so the difference
      has twice the power of one, which is that of the reference against the unrounded op.
    - Any other float output: the roundings of a sum, 64 units of the format's roundoff of the
      largest value.
    """
    if found.shape != reference.value.shape:
        return
    if not found.is_floating_point() and grid is not None:
        levels = found.int_repr() if found.is_quantized else found
        difference = _steps(levels, grid, reference.value)
    elif reference.scheme.mode is not Mode.STATIC:
        difference = _of_noise(found.double(), reference)
    else:
        difference = _of_roundoff(found, reference.value)
    difference = difference.nan_to_num(nan=torch.inf)
    seen.worst = max(seen.worst, float(difference.max()))
    seen.beyond += int((difference > 1.0).sum()) * found.numel() // difference.numel()
    seen.elements += found.numel()


def _steps(levels: Tensor, grid: Grid, reference: Tensor) -> Tensor:
    """Difference in steps of the output's own scale, element by element."""
    exact = reference / grid.scale + grid.zero_point
    difference: Tensor = (levels.double() - exact.round().clamp(grid.low, grid.high)).abs()
    return difference


def _of_noise(found: Tensor, reference: Reference) -> Tensor:
    """Root of the power of the difference over that of two roundings; one number."""
    noise = (reference.value - reference.unrounded).square().sum()
    floor = (2.0**-12 * reference.value).square().sum()
    difference = (found - reference.value).square().sum()
    ratio: Tensor = (difference / (2.0 * torch.maximum(noise, floor))).sqrt()
    return ratio.nan_to_num(nan=0.0).reshape(1)


def _of_roundoff(found: Tensor, reference: Tensor) -> Tensor:
    """Difference over the allowed roundoff, element by element."""
    allowed = _UNIT_ROUNDOFF.get(found.dtype, 2.0**-24) * _LONGEST_SUM**0.5
    largest = reference.abs().max().clamp_min(1e-30)
    difference: Tensor = (found.double() - reference).abs() / (allowed * largest)
    return difference
