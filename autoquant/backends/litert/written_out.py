"""Ops that litert-torch refuses or computes otherwise than torch, in those that it converts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.fx import GraphModule
from torch.nn.functional import conv_transpose1d, conv_transpose2d, pad

_ATEN = torch.ops.aten


def write_out(graph: GraphModule) -> None:
    """Have each such op of a captured graph computed by others, in place.

    Which others depends on sizes: a node is given a function, which decides where litert-torch
    exports it once more.
    """
    for node in graph.graph.nodes:
        node.target = _WRITTEN_OUT.get(node.target, node.target)
    graph.recompile()


def _transposed(convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A transposed convolution with no padding but that which LiteRT's kernel has.

    That is none, or what makes a size a multiple of the stride; with strides of one it is a
    convolution. Else more is computed and the rest cut off. litert-torch knows no dilation beside a
    stride: the zeros that it stands for are written into the weight.
    """

    def compute(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] = (0,),
        output_padding: Sequence[int] = (0,),
        groups: int = 1,
        dilation: Sequence[int] = (1,),
    ) -> Tensor:
        if groups > 1:  # each with its bias: litert-torch would add that to what it joins
            biases = [None] * groups if bias is None else bias.chunk(groups)
            parts = zip(x.chunk(groups, 1), weight.chunk(groups), biases, strict=True)
            made = [
                compute(part, own, its_bias, stride, padding, output_padding, 1, dilation)
                for part, own, its_bias in parts
            ]
            return torch.cat(made, 1)
        rank = weight.dim() - 2
        strides, pads, more, apart = (
            tuple(item) * (rank // len(item))
            for item in (stride, padding, output_padding, dilation)
        )
        if max(strides) > 1:
            weight, apart = _spread(weight, apart), (1,) * rank
        sizes = [
            (size - 1) * step - 2 * cut + gap * (width - 1) + further + 1
            for size, step, cut, gap, width, further in zip(
                x.shape[2:], strides, pads, apart, weight.shape[2:], more, strict=True
            )
        ]
        if not any(more) and (_is_own(x, sizes, strides) or set(pads) == {0}):
            return convolve(x, weight, bias, strides, pads, 0, groups, apart)
        beyond = [
            -(min(cut - end, 0) // step) for cut, end, step in zip(pads, more, strides, strict=True)
        ]
        for axis, count in enumerate(beyond):
            if count:
                x = pad(x, [0, 0] * (rank - 1 - axis) + [0, count])
        whole = convolve(x, weight, bias, strides, 0, 0, groups, apart)
        for axis, (start, size) in enumerate(zip(pads, sizes, strict=True), start=2):
            whole = whole.narrow(axis, start, size)
        return whole

    return compute


def _spread(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """A weight with zeros between its places, as a dilation reads it."""
    for axis, gap in enumerate(dilation, start=2):
        if gap > 1:
            size = gap * (weight.shape[axis] - 1) + 1
            between = [torch.zeros_like(weight)] * (gap - 1)
            spread = torch.stack([weight, *between], axis + 1).flatten(axis, axis + 1)
            weight = spread.narrow(axis, 0, size)
    return weight


def _is_own(x: Tensor, sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether LiteRT's kernel cuts off as much by itself."""
    if set(strides) == {1}:
        return True
    return all(
        size == given * step for size, given, step in zip(sizes, x.shape[2:], strides, strict=True)
    )


_BILINEAR = _ATEN.upsample_bilinear2d.vec
_NEAREST = _ATEN.upsample_nearest2d.vec


def _nearest(x: Tensor, size: Sequence[int] | None, factors: Sequence[float] | None) -> Tensor:
    """Nearest neighbours by index: LiteRT's own looks half a pixel further than torch.

    That makes no difference where each pixel is repeated a whole number of times.
    """
    sizes = list(zip(_size(x, size, factors), x.shape[2:], strict=True))
    known: Sequence[float | None] = factors or [None] * len(sizes)
    places = [_places(new, old, factor) for (new, old), factor in zip(sizes, known, strict=True)]
    if all(
        new % old == 0 and np.array_equal(at, np.arange(new) // (new // old))
        for at, (new, old) in zip(places, sizes, strict=True)
    ):
        return cast("Tensor", _NEAREST(x, size, factors))
    for axis, at in enumerate(places, start=2):
        x = x.index_select(axis, torch.tensor(at.tolist()))
    return x


def _places(new: int, old: int, factor: float | None) -> npt.NDArray[np.int64]:
    """Where torch looks, by its `nearest_idx` (ATen/native/UpSample.h)."""
    places: npt.NDArray[np.int64] = np.arange(new)
    if new in (old, 2 * old):
        places //= new // old
        return places
    step = np.float32(1 / factor if factor else old / new)
    places = np.floor(places.astype(np.float32) * step).astype(np.int64)
    return places.clip(max=old - 1)


def _bilinear(
    x: Tensor, size: Sequence[int] | None, aligned: bool, factors: Sequence[float] | None
) -> Tensor:
    """Linear interpolation by torch's own arithmetic where a factor is not that of the sizes."""
    found = _size(x, size, factors)
    exact = factors is None or all(
        new == old * factor for new, old, factor in zip(found, x.shape[2:], factors, strict=True)
    )
    compute = _BILINEAR if exact or aligned else get_decompositions([_BILINEAR])[_BILINEAR]
    return cast("Tensor", compute(x, size, aligned, factors))


def _size(x: Tensor, size: Sequence[int] | None, factors: Sequence[float] | None) -> list[int]:
    if size is not None:
        return list(size)
    return [int(old * factor) for old, factor in zip(x.shape[2:], factors or (), strict=True)]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,  # noqa: ARG001  models are in eval mode
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale * (query @ key^T) + mask) @ value, by torch's documentation of it.

    litert-torch scales query and key before their product, which its converter makes part of the
    layers that give them: they could have no format of their own.
    """
    if enable_gqa:
        copies = query.shape[-3] // key.shape[-3]
        key, value = (item.repeat_interleave(copies, -3) for item in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is None:
        return torch.softmax(scores, -1) @ value
    if mask.dtype is not torch.bool:
        return torch.softmax(scores + mask, -1) @ value
    weights = torch.softmax(scores + torch.where(mask, 0.0, -torch.inf), -1)
    if not is_causal:  # a row that sees nothing gets zeros, as from torch
        weights = torch.where(mask.any(-1, keepdim=True), weights, 0.0)
    return weights @ value


_WRITTEN_OUT: Mapping[Any, Callable[..., Tensor]] = {
    _ATEN.scaled_dot_product_attention.default: _attention,
    _ATEN.conv_transpose1d.default: _transposed(conv_transpose1d),
    _ATEN.conv_transpose2d.input: _transposed(conv_transpose2d),
    _NEAREST: _nearest,
    _BILINEAR: _bilinear,
}
