"""Weights packed for their kernels: kept as plain tensors, packed again when loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.backends.torch_cpu.engines import using_engine


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a weight is packed.

    Attributes:
        pack: A key of `PACKERS`.
        engine: Whose kernels will read it; empty for float weights, which onednn alone packs.
        tensors: Quantized or float weights and biases, in the packer's order.
        numbers: Strides and the like, in the packer's order.
    """

    pack: str
    engine: str
    tensors: tuple[Tensor | None, ...]
    numbers: tuple[Any, ...] = ()


class PackedWeight(nn.Module):
    """A weight in the form that its kernel reads; `packed` is no tensor that can be stored.

    Pickling and copying keep the recipe and pack anew.

    Raises:
        RuntimeError: The engine refuses it.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.packed = _pack(recipe)

    @property
    def keeps_first_call(self) -> bool:
        """Whether it is fast on inputs of the size of its first call alone."""
        return self.recipe.engine in ("onednn", "x86") and not self.is_opaque

    @property
    def is_opaque(self) -> bool:
        """Whether `packed` is a tensor that no file can hold."""
        return isinstance(self.packed, Tensor) and self.packed.is_mkldnn

    def __reduce__(self) -> tuple[Any, ...]:
        recipe = self.recipe
        return (_restore, (recipe.pack, recipe.engine, recipe.tensors, recipe.numbers))

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        return self  # never changed


def _restore(
    pack: str, engine: str, tensors: tuple[Tensor | None, ...], numbers: tuple[Any, ...]
) -> PackedWeight:
    return PackedWeight(Recipe(pack, engine, tensors, numbers))


def _pack(recipe: Recipe) -> Any:
    using = using_engine(recipe.engine) if recipe.engine else nullcontext()
    with using, torch.no_grad():
        return PACKERS[recipe.pack](*recipe.tensors, *recipe.numbers)


_QUANTIZED = torch.ops.quantized


def _recurrent_cell(
    w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, reduce_range: bool
) -> Any:
    """Weights of one direction of one layer."""
    first = _QUANTIZED.linear_prepack(w_ih, b_ih)
    second = _QUANTIZED.linear_prepack(w_hh, b_hh)
    return _QUANTIZED.make_quantized_cell_params_dynamic(first, second, b_ih, b_hh, reduce_range)


def _recurrent_cell_fp16(w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Any:
    """Weights of one direction of one layer, in fp16."""
    first = _QUANTIZED.linear_prepack_fp16(w_ih, b_ih)
    second = _QUANTIZED.linear_prepack_fp16(w_hh, b_hh)
    return _QUANTIZED.make_quantized_cell_params_fp16(first, second)


PACKERS: Mapping[str, Callable[..., Any]] = {
    "conv1d": _QUANTIZED.conv1d_prepack,
    "conv2d": _QUANTIZED.conv2d_prepack,
    "conv3d": _QUANTIZED.conv3d_prepack,
    "conv_transpose1d": _QUANTIZED.conv_transpose1d_prepack,
    "conv_transpose2d": _QUANTIZED.conv_transpose2d_prepack,
    "conv_transpose3d": _QUANTIZED.conv_transpose3d_prepack,
    "linear": _QUANTIZED.linear_prepack,
    "linear_fp16": _QUANTIZED.linear_prepack_fp16,
    "embedding": _QUANTIZED.embedding_bag_prepack,
    "cell": _recurrent_cell,
    "cell_fp16": _recurrent_cell_fp16,
    "float_conv": torch.ops.mkldnn._reorder_convolution_weight,
    "float_linear": torch.ops.mkldnn._reorder_linear_weight,
    "pointwise_conv": torch.ops.onednn.qconv_prepack,
    "pointwise_linear": torch.ops.onednn.qlinear_prepack,
}
