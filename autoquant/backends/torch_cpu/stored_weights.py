"""onednn's packed weights in TorchScript files: stored as plain tensors, packed on loading."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoquant.backends.torch_cpu.packed_weights import Recipe


class _Stored(nn.Module):
    """A weight that is packed when it is made, and again when a file is loaded.

    Args:
        pack: A key of `PACKERS`.
        tensors: The weight; of integers its scales too.
        places: Stride, padding and dilation in the packer's order, then the sizes of the input.
        scale: Of the input, where it is integers.
        numbers: Zero point of the input and groups of a convolution; rows of a linear layer.
    """

    def __init__(
        self,
        pack: str,
        tensors: list[Tensor],
        places: list[list[int]],
        scale: float,
        numbers: list[int],
    ) -> None:
        super().__init__()
        self.state = (pack, tensors, places, scale, numbers)
        self.packed = _pack(pack, tensors, places, scale, numbers)

    def forward(self) -> Tensor:
        """Give the packed weight."""
        packed: Tensor = self.packed
        return packed

    @torch.jit.export
    def __getstate__(
        self,
    ) -> tuple[tuple[str, list[Tensor], list[list[int]], float, list[int]], bool]:
        return (self.state, self.training)

    @torch.jit.export
    def __setstate__(
        self, state: tuple[tuple[str, list[Tensor], list[list[int]], float, list[int]], bool]
    ) -> None:
        self.state = state[0]
        pack, tensors, places, scale, numbers = state[0]
        self.packed = _pack(pack, tensors, places, scale, numbers)
        self.training = state[1]


def _pack(
    pack: str, tensors: list[Tensor], places: list[list[int]], scale: float, numbers: list[int]
) -> Tensor:
    """Pack a weight, in words that TorchScript has: it knows no table of functions."""
    weight = tensors[0]
    if pack == "float_linear":
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, numbers[0])
    elif pack == "float_conv":
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, places[0], places[1], places[2], numbers[1], places[3]
        )
    elif pack == "pointwise_linear":
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
    else:
        packed = torch.ops.onednn.qconv_prepack(
            weight,
            tensors[1],
            scale,
            numbers[0],
            places[0],
            places[1],
            places[2],
            numbers[1],
            places[3],
        )
    found: Tensor = packed
    return found


def stored(recipe: Recipe) -> nn.Module:
    """Give a module that a file can hold and whose `packed` a kernel reads."""
    tensors = [item for item in recipe.tensors if item is not None]
    scale, places, numbers = 0.0, [[0]], [0]  # TorchScript takes an empty list for one of tensors
    if recipe.pack == "float_linear":
        numbers = list(recipe.numbers)
    elif recipe.pack == "float_conv":
        *given, groups, shape = recipe.numbers
        places, numbers = [*given, shape], [0, groups]
    elif recipe.pack == "pointwise_conv":
        scale, zero_point, *given, groups, shape = recipe.numbers
        places, numbers = [*given, shape], [zero_point, groups]
    return _Stored(recipe.pack, tensors, places, scale, numbers)
