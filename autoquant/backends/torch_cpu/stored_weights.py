"""onednn's packed weights in TorchScript files: stored as plain tensors, packed on loading."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoquant.backends.torch_cpu.packed_weights import Recipe


class _Convolution(nn.Module):
    """A packed convolution weight."""

    def __init__(
        self,
        weight: Tensor,
        scales: Tensor,
        scale: float,
        zero_point: int,
        places: list[list[int]],
        groups: int,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.scales = scales
        self.scale = scale
        self.zero_point = zero_point
        self.places = places
        self.groups = groups
        self.packed = torch.ops.onednn.qconv_prepack(
            weight, scales, scale, zero_point, places[0], places[1], places[2], groups, places[3]
        )

    def forward(self) -> Tensor:
        """Give the packed weight."""
        packed: Tensor = self.packed
        return packed

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, float, int, list[list[int]], int, bool]:
        return (
            self.weight,
            self.scales,
            self.scale,
            self.zero_point,
            self.places,
            self.groups,
            self.training,
        )

    @torch.jit.export
    def __setstate__(
        self, state: tuple[Tensor, Tensor, float, int, list[list[int]], int, bool]
    ) -> None:
        self.weight, self.scales, self.scale, self.zero_point = (
            state[0],
            state[1],
            state[2],
            state[3],
        )
        self.places = state[4]
        self.groups = state[5]
        self.packed = torch.ops.onednn.qconv_prepack(
            state[0],
            state[1],
            state[2],
            state[3],
            state[4][0],
            state[4][1],
            state[4][2],
            state[5],
            state[4][3],
        )
        self.training = state[6]


class _Linear(nn.Module):
    """A packed linear weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)

    def forward(self) -> Tensor:
        """Give the packed weight."""
        packed: Tensor = self.packed
        return packed

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight = state[0]
        self.packed = torch.ops.onednn.qlinear_prepack(state[0], None)
        self.training = state[1]


class _FloatConvolution(nn.Module):
    """A packed float convolution weight."""

    def __init__(self, weight: Tensor, places: list[list[int]], groups: int) -> None:
        super().__init__()
        self.weight = weight
        self.places = places
        self.groups = groups
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, places[0], places[1], places[2], groups, places[3]
        )

    def forward(self) -> Tensor:
        """Give the packed weight."""
        packed: Tensor = self.packed
        return packed

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, list[list[int]], int, bool]:
        return (self.weight, self.places, self.groups, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, list[list[int]], int, bool]) -> None:
        self.weight = state[0]
        self.places = state[1]
        self.groups = state[2]
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(
            state[0], state[1][0], state[1][1], state[1][2], state[2], state[1][3]
        )
        self.training = state[3]


class _FloatLinear(nn.Module):
    """A packed float linear weight."""

    def __init__(self, weight: Tensor, rows: int) -> None:
        super().__init__()
        self.weight = weight
        self.rows = rows
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    def forward(self) -> Tensor:
        """Give the packed weight."""
        packed: Tensor = self.packed
        return packed

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, int, bool]:
        return (self.weight, self.rows, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, int, bool]) -> None:
        self.weight = state[0]
        self.rows = state[1]
        self.packed = torch.ops.mkldnn._reorder_linear_weight(state[0], state[1])
        self.training = state[2]


def stored(recipe: Recipe) -> nn.Module:
    """Give a module that a file can hold and whose `packed` a kernel reads."""
    weight = _given(recipe.tensors[0])
    numbers = recipe.numbers
    if recipe.pack == "float_linear":
        return _FloatLinear(weight, *numbers)
    if recipe.pack == "float_conv":
        padding, stride, dilation, groups, shape = numbers
        return _FloatConvolution(weight, [padding, stride, dilation, shape], groups)
    if recipe.pack == "pointwise_linear":
        return _Linear(weight)
    scale, zero_point, stride, padding, dilation, groups, shape = numbers
    places = [stride, padding, dilation, shape]
    return _Convolution(weight, _given(recipe.tensors[1]), scale, zero_point, places, groups)


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("a packed weight without its bytes")
    return tensor
