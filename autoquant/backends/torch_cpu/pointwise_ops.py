"""The kernels of `torch.ops.onednn`: plain uint8 in, uint8, float32 or bfloat16 out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from autoquant.backends.torch_cpu.convolutions import Geometry, geometry_of, has_constants
from autoquant.backends.torch_cpu.emission import Emitter
from autoquant.backends.torch_cpu.forms import Form
from autoquant.backends.torch_cpu.operations import Kernel, Operation
from autoquant.backends.torch_cpu.packed_weights import Recipe
from autoquant.backends.torch_cpu.post_ops import PostOp, PostOps, clamp, gelu, plain, post_op_of
from autoquant.core.precision import Scheme
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.node_shapes import shape_of

_ONEDNN = torch.ops.onednn
_WRITES = (Form.UINT8, Form.FLOAT32, Form.BFLOAT16)

_POST_OPS: Mapping[str, PostOps] = {
    "conv1d": {"relu": plain("relu")},
    "conv2d": {
        "relu": plain("relu"),
        "hardswish": plain("hardswish"),
        "silu": plain("swish"),
        "hardtanh": clamp,
    },
    "conv3d": {},
    "linear": {
        "relu": plain("relu"),
        "hardswish": plain("hardswish"),
        "silu": plain("swish"),
        "gelu": gelu,
        "hardtanh": clamp,
        "tanh": plain("tanh"),
    },
}
"""By op, the activations that run within it."""

_BEHIND_SUMS: Mapping[str, PostOps] = {"conv2d": {"relu": plain("relu")}}
"""By op that a sum runs within, the activations that run within it behind the sum."""


def pointwise_kernel(operation: Operation) -> Kernel | None:
    """Give the kernel of a convolution or linear layer, and of what runs within it.

    That is an activation, or the sum of a convolution of images with integers, with or without a
    relu; the sum is written over those integers.

    None where there is none for these ops with these arguments.
    """
    name = operation.name
    post_op = post_op_of(operation, _POST_OPS.get(name), _BEHIND_SUMS.get(name))
    if post_op is None:
        return None
    if name == "linear":
        if not has_constants(operation):
            return None
        return Kernel(Form.UINT8, _WRITES, partial(_multiply, post_op), Scheme.INT8)
    geometry = geometry_of(operation)
    if geometry is None:
        return None
    writes = _WRITES if operation.addend is None else (Form.UINT8,)
    return Kernel(Form.UINT8, writes, partial(_convolve, post_op, geometry), Scheme.INT8)


def _convolve(
    post_op: PostOp, geometry: Geometry, emitter: Emitter, operation: Operation, out: Form
) -> None:
    source = operation.argument("input")
    read = emitter.read(source, Form.UINT8)
    scale, zero_point = read.numbers
    places = (list(geometry.stride), list(geometry.padding), list(geometry.dilation))
    shape = list(shape_of(source) or ())

    def pack(weight: torch.Tensor, scales: torch.Tensor) -> Recipe:
        numbers = (scale, zero_point, *places, geometry.groups, shape)
        return Recipe("pointwise_conv", "onednn", (weight, scales), numbers)

    weights = _weights(emitter, operation, pack, (geometry, scale, zero_point))
    written, grid = _written(emitter, operation, out)
    target, addend, summing = _ONEDNN.qconv_pointwise.default, (), ()
    if operation.addend is not None:
        target, addend, summing = _summed(emitter, operation.addend)
    *weights, bias = weights
    made = emitter.call(
        target, read.node, scale, zero_point, *weights, *addend, bias, *places, geometry.groups,
        *written, *summing, *post_op,
    )  # fmt: skip
    emitter.put(operation.last, out, made, grid)


def _summed(emitter: Emitter, source: Node) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """The operator with a sum, what it adds, and how."""
    read = emitter.read(source, Form.UINT8)
    return _ONEDNN.qconv2d_pointwise.binary, (read.node,), (*read.numbers, "sum", 1.0)


def _multiply(post_op: PostOp, emitter: Emitter, operation: Operation, out: Form) -> None:
    read = emitter.read(operation.argument("input"), Form.UINT8)
    scale, zero_point = read.numbers

    def pack(weight: torch.Tensor, scales: torch.Tensor) -> Recipe:  # noqa: ARG001
        return Recipe("pointwise_linear", "onednn", (weight,), (None,))

    weights = _weights(emitter, operation, pack, ())
    written, grid = _written(emitter, operation, out)
    made = emitter.call(
        _ONEDNN.qlinear_pointwise.default,
        read.node, scale, zero_point, *weights, *written, *post_op,
    )  # fmt: skip
    emitter.put(operation.last, out, made, grid)


def _weights(
    emitter: Emitter,
    operation: Operation,
    pack: Callable[[torch.Tensor, torch.Tensor], Recipe],
    key: Sequence[Any],
) -> list[Node | None]:
    """Packed weight, its scales and zero points, and the bias."""
    weight, bias = operation.argument("weight"), operation.argument("bias")
    store, name = emitter.store, operation.site.name
    path = str(weight.target)
    quantized = store.quantized(weight, per_channel=True)
    scales = store.made(
        ("scales", path), lambda: quantized.q_per_channel_scales().to(torch.float32)
    )
    zeros = store.made(("zeros", len(scales)), lambda: torch.zeros(len(scales), dtype=torch.int32))

    def recipe() -> Recipe:
        return pack(store.made(("bytes", path), quantized.int_repr), scales)

    packed = store.packed(("pointwise", operation.name, path, *key), recipe)
    return [
        emitter.hold(packed, name),
        emitter.hold(scales, f"{name}_scales"),
        emitter.hold(zeros, f"{name}_zeros"),
        None if bias is None else emitter.read(bias, Form.FLOAT32).node,
    ]


def _written(
    emitter: Emitter, operation: Operation, out: Form
) -> tuple[tuple[float, int, torch.dtype], Grid | None]:
    """Scale, zero point and type of the output."""
    if out is not Form.UINT8:
        return (1.0, 0, out.dtype), None
    grid = emitter.grids.int8_grid(operation.last.name)
    return (*grid.numbers, torch.uint8), grid
