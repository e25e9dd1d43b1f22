"""On which sizes a float kernel with a packed weight is faster than torch's own.

One thread on Zen 4 (avx512_bf16), torch 2.13: a call of onednn's costs 17 (linear) to 25 us
(convolution) before it computes anything, torch's own ways of small work 5 us. Where torch asks
onednn itself, it prepares the weight at every call, which what is packed never does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from autoquant.backends.torch_cpu.convolutions import Geometry

_COPIED = 25_000
"""Numbers that torch's own convolution copies in the time in which onednn's starts."""

_PRODUCTS = 4_000_000
"""Products from which on onednn's are as fast as MKL's, its start included."""

_REPACKED = 1 << 17
"""Numbers of a weight from which on MKL's packing of it, at every call, takes as long as that."""

_TINY = 16**3
"""Products up to which torch multiplies bfloat16 by itself, and does not ask onednn."""


def convolves_faster(
    image: Sequence[int],
    weight: Sequence[int],
    written: Sequence[int],
    geometry: Geometry,
    dtype: torch.dtype,
) -> bool:
    """Whether a packed convolution is no slower.

    Torch's own ways copy the numbers under the kernel side by side, and the weight in another
    order, then multiply by MKL; a kernel of one pixel copies nothing.
    """
    if asks_onednn(image, weight, geometry, dtype):
        return True
    pixels = written[0] * math.prod(written[2:])
    if pixels * math.prod(weight) >= _PRODUCTS:
        return True
    under = math.prod(weight[1:])
    return math.prod(weight[2:]) > 1 and pixels * under + math.prod(weight) >= _COPIED


def multiplies_faster(rows: int, weight: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether a packed linear layer is no slower."""
    numbers = math.prod(weight)
    if dtype is torch.bfloat16:
        return rows * numbers > _TINY
    return rows > 1 and (numbers >= _REPACKED or rows * numbers >= _PRODUCTS)


def asks_onednn(
    image: Sequence[int], weight: Sequence[int], geometry: Geometry, dtype: torch.dtype
) -> bool:
    """Whether torch's convolution takes onednn for these sizes, and this many threads."""
    given, kernel = torch.empty(image, dtype=dtype), torch.empty(weight, dtype=dtype)
    places = (geometry.stride, geometry.padding, geometry.dilation)
    chosen = torch._C._select_conv_backend(
        given, kernel, None, *places, False, [0] * (len(weight) - 2), geometry.groups, None
    )
    return str(chosen).endswith(".Mkldnn")
