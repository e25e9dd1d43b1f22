"""Grids of weights: their scales follow from the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoquant.core.precision import Precision, Scheme
from autoquant.core.sites import OpKind

_LEAST_SCALE = torch.finfo(torch.float32).eps
LEVELS: Mapping[Precision, tuple[int, int]] = {
    Precision.INT4: (-8, 7),
    Precision.INT8: (-128, 127),
    Precision.INT16: (-32768, 32767),
}
"""Smallest and largest integer of a weight."""
GROUPED = frozenset({OpKind.LINEAR, OpKind.EMBEDDING})
"""What may have scales by group: matrices whose rows are read along their columns."""
_ONE_SCALE = frozenset(
    {
        OpKind.CONV_TRANSPOSE1D,
        OpKind.CONV_TRANSPOSE2D,
        OpKind.CONV_TRANSPOSE3D,
        OpKind.LSTM,
        OpKind.GRU,
    }
)
"""torch's kernels of these take one scale for a whole weight."""


INT8_LEVELS: Mapping[int, tuple[int, int]] = {8: LEVELS[Precision.INT8], 7: (-64, 64)}
"""Those of weights that meet int8 activations, by their bits: two products of a byte and 64 are
within 16 bits (2 * 255 * 64 = 32,640)."""


@dataclass(frozen=True, slots=True)
class WeightGrid:
    """Symmetric integer grids, one for each output channel, or one for all.

    The largest absolute value lies half a step beyond the last level, as torch's observers of
    weights have it (`scale = max|w| / 127.5` for 8 bits).

    Attributes:
        axis: Of the output channels; None: one scale.
        low: Smallest integer.
        high: Largest integer.
        scales: Type in which the scales are stored.
    """

    axis: int | None
    low: int
    high: int
    scales: torch.dtype = torch.float32

    @property
    def is_per_channel(self) -> bool:
        """Whether each output channel has a scale of its own."""
        return self.axis is not None

    def scale(self, weight: Tensor) -> Tensor:
        """Give the scales, shape (channels,), or (1,) for one."""
        others = [item for item in range(weight.ndim) if item != self.axis]
        largest = weight.detach().abs().amax(others).reshape(-1)
        scale = (largest / ((self.high - self.low) / 2)).clamp_min(_LEAST_SCALE)
        return scale.to(self.scales).float()

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Give the integers that stand for a weight, as int32; shape as given."""
        shape = [1] * weight.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        steps = (weight.detach() * (1.0 / scale).reshape(shape)).round_()
        return steps.clamp_(self.low, self.high).to(torch.int32)

    def __call__(self, weight: Tensor) -> Tensor:
        """Round each element; shape as given."""
        scale = self.scale(weight)
        return fake_quantize_weight(
            weight,
            scale,
            torch.zeros_like(scale),
            axis=self.axis,
            low=self.low,
            high=self.high,
        )


@dataclass(frozen=True, slots=True)
class RowGrid:
    """256 levels from the smallest to the largest value of each row, as embedding kernels read."""

    def __call__(self, weight: Tensor) -> Tensor:
        """Round each element; shape as given."""
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        step = (high - low) / 255
        step = torch.where(step > _LEAST_SCALE, step, torch.ones_like(step))
        return ((weight - low) / step).round_().clamp_(0, 255).mul_(step).add_(low)


@dataclass(frozen=True, slots=True)
class GroupGrid:
    """Four bits, with a scale for each group of weights that follow each other in a row.

    The largest value of a group lies on level -8, whatever its sign: the scale takes the sign, so
    that all 16 levels are used (as ggml's Q4_0 and ONNX Runtime's symmetric quantizer have it).
    The last group of a row may be shorter.

    Attributes:
        size: Weights of a group.
    """

    size: int

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Give levels from -8 to 7 and scales.

        Args:
            weight: Shape (rows, columns).

        Returns:
            int8 of shape (rows, groups, size), zeros where a last group is filled up; and floats
            of shape (rows, groups).
        """
        low, high = LEVELS[Precision.INT4]
        rows, columns = weight.shape
        count = -(-columns // self.size)
        filled = functional.pad(weight.detach().float(), (0, count * self.size - columns))
        groups = filled.reshape(rows, count, self.size)
        largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
        scale = torch.where(largest == 0, torch.ones_like(largest), largest / low)
        levels = (groups / scale).round_().clamp_(low, high)
        return levels.to(torch.int8), scale.squeeze(2)

    def __call__(self, weight: Tensor) -> Tensor:
        """Round each element; shape as given."""
        levels, scale = self.codes(weight)
        rounded = (levels * scale[:, :, None]).flatten(1)
        return rounded[:, : weight.shape[1]].to(weight.dtype)


def weight_grid(
    kind: OpKind, scheme: Scheme, bits: int = 8
) -> WeightGrid | RowGrid | GroupGrid | None:
    """How an integer scheme stores the weights of an op; None: in float.

    The output channels of convolutions and linear layers are their weight's first dimension.

    Args:
        kind: What reads the weight.
        scheme: Any.
        bits: Of int8 weights that meet int8 activations.
    """
    if not kind.is_weighted or scheme.weight.is_float:
        return None
    if scheme.group is not None:
        if kind not in GROUPED or scheme.weight is not Precision.INT4:
            raise ValueError(f"no weights of {kind.value} are stored as {scheme.value}")
        return GroupGrid(scheme.group)
    if kind in (OpKind.EMBEDDING, OpKind.EMBEDDING_BAG):
        return RowGrid()
    low, high = LEVELS[scheme.weight]
    if scheme.weight is scheme.activation is Precision.INT8:
        low, high = INT8_LEVELS[bits]
    scales = torch.bfloat16 if scheme.activation is Precision.BF16 else torch.float32
    return WeightGrid(None if kind in _ONE_SCALE else 0, low, high, scales)


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
