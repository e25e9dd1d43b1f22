"""Convolutions and linear layers in fp32 and bf16 on weights that are packed once, for onednn.

torch's own kernels prepare a weight anew at every call. These (`torch.ops.mkldnn`) compute
activations and sums too before they write a result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from autoquant.backends.torch_cpu.convolutions import Geometry, geometry_of, has_constants
from autoquant.backends.torch_cpu.emission import Emitter, is_float32
from autoquant.backends.torch_cpu.engines import packs_floats
from autoquant.backends.torch_cpu.float_ops import emit_each
from autoquant.backends.torch_cpu.forms import Form
from autoquant.backends.torch_cpu.operations import Emit, Kernel, Operation
from autoquant.backends.torch_cpu.packed_weights import Recipe
from autoquant.backends.torch_cpu.packing_gain import (
    asks_onednn,
    convolves_faster,
    multiplies_faster,
)
from autoquant.backends.torch_cpu.post_ops import (
    PostOp,
    PostOps,
    clamp,
    gelu,
    leak,
    plain,
    post_op_of,
)
from autoquant.backends.torch_cpu.timed_sizes import TimedSizes
from autoquant.core.precision import Scheme
from autoquant.model.graph.node_shapes import fixed_sizes, shape_of

_MKLDNN = torch.ops.mkldnn
_ATEN = torch.ops.aten

_POST_OPS: PostOps = {
    "relu": plain("relu"),
    "hardswish": plain("hardswish"),
    "silu": plain("swish"),
    "gelu": gelu,
    "hardtanh": clamp,
    "hardsigmoid": plain("hardsigmoid"),
    "leaky_relu": leak,
    "sigmoid": plain("sigmoid"),
    "tanh": plain("tanh"),
}

_BEHIND_SUMS: Mapping[str, PostOps] = {"conv2d": {"relu": plain("relu")}, "linear": {}}


def packed_kernel(operation: Operation, form: Form, sizes: TimedSizes | None) -> Kernel | None:
    """Give the kernel of a convolution or linear layer, and of what runs within it.

    That is an activation; or a sum with another tensor of the same sizes, with or without a relu.

    Returns:
        None where there is none for these ops with these arguments, or torch's own is faster.
    """
    if sizes is None or not packs_floats(form.dtype) or not is_float32(operation.root):
        return None
    post_op = post_op_of(operation, _POST_OPS, _BEHIND_SUMS.get(operation.name))
    emit = None if post_op is None else _emission(post_op, operation, form, sizes)
    runs = Scheme.BF16 if form is Form.BFLOAT16 else Scheme.FP32
    return None if emit is None else Kernel(form, (form,), emit, runs)


def _emission(post_op: PostOp, operation: Operation, form: Form, sizes: TimedSizes) -> Emit | None:
    if operation.name not in ("conv2d", "conv3d", "linear"):
        return None
    if not has_constants(operation):
        return None
    read, written = sizes.of(operation.argument("input")), sizes.of(operation.root)
    shape = shape_of(operation.argument("weight")) or ()
    if operation.name == "linear":
        rows = math.prod(written[:-1])
        faster = multiplies_faster(rows, shape, form.dtype)
        return partial(_multiply, post_op, rows) if faster else None
    geometry = geometry_of(operation)
    if geometry is not None and _is_linear(operation, geometry):
        if multiplies_faster(written[0], shape, form.dtype):
            return partial(_multiply, post_op, written[0])
        is_slow = asks_onednn(read, shape, geometry, form.dtype)
        return _multiply_plainly if is_slow and not operation.fused else None
    if geometry is None or not convolves_faster(read, shape, written, geometry, form.dtype):
        return None
    return partial(_convolve, post_op, geometry, read)


def _convolve(
    post_op: PostOp,
    geometry: Geometry,
    image: tuple[int, ...],
    emitter: Emitter,
    operation: Operation,
    out: Form,
) -> None:
    places = (list(geometry.padding), list(geometry.stride), list(geometry.dilation))
    numbers = (*places, geometry.groups, list(image))
    read, weight, bias = _arguments("float_conv", numbers, emitter, operation, out)
    rest = (weight, bias, *places, geometry.groups)
    target = _MKLDNN._convolution_pointwise
    if operation.addend is None:
        made = emitter.call(target.default, read, *rest, *post_op)
    else:
        addend = emitter.read(operation.addend, out).node
        activation = None if post_op[0] == "none" else post_op[0]
        summing: tuple[Any, ...] = ("add", 1.0, activation, [], None)
        made = emitter.call(target.binary, read, addend, *rest, *summing)
    emitter.put(operation.last, out, made)


def _is_linear(operation: Operation, geometry: Geometry) -> bool:
    """Whether a convolution is a linear layer: of images of one pixel, by kernels of one.

    As a convolution onednn takes up to four times as long.
    """
    kernel = (shape_of(operation.argument("weight")) or ())[2:]
    pixels = fixed_sizes(operation.argument("input"))[2:]
    is_whole = geometry.groups == 1 and operation.addend is None
    return is_whole and all(
        size == 1 for size in (*kernel, *pixels, *fixed_sizes(operation.root)[2:])
    )


def _multiply(
    post_op: PostOp, rows: int, emitter: Emitter, operation: Operation, out: Form
) -> None:
    read, weight, bias = _arguments("float_linear", (rows,), emitter, operation, out)
    target = _MKLDNN._linear_pointwise
    if operation.addend is None:
        read, pixels = _without_pixels(emitter, operation, read)
        made = emitter.call(target.default, read, weight, bias, *post_op)
        made = _with_pixels(emitter, made, pixels)
    else:
        addend = emitter.read(operation.addend, out).node
        made = emitter.call(target.binary, read, addend, weight, bias, "add")
    emitter.put(operation.last, out, made)


def _multiply_plainly(emitter: Emitter, operation: Operation, out: Form) -> None:
    """A convolution of single pixels as torch's own linear layer."""
    store, source = emitter.store, operation.argument("weight")
    bias = operation.argument("bias")
    weight = store.made(
        ("flat", out, source.target), lambda: store.value(source).flatten(1).to(out.dtype)
    )
    read = emitter.read(operation.argument("input"), out).node
    read, pixels = _without_pixels(emitter, operation, read)
    numbers = None if bias is None else emitter.read(bias, out).node
    held = emitter.hold(weight, f"{operation.site.name}_weight")
    made = emitter.call(_ATEN.linear.default, read, held, numbers)
    emitter.put(operation.root, out, _with_pixels(emitter, made, pixels))
    emit_each(emitter, operation.nodes[1:], out)


def _without_pixels(emitter: Emitter, operation: Operation, read: Node) -> tuple[Node, int]:
    """Images of one pixel as vectors, and how many axes that takes off."""
    axes = 0 if operation.name == "linear" else len(shape_of(operation.root) or ()) - 2
    return (emitter.call(_ATEN.flatten.using_ints, read, 1) if axes else read), axes


def _with_pixels(emitter: Emitter, made: Node, axes: int) -> Node:
    for _ in range(axes):
        made = emitter.call(_ATEN.unsqueeze.default, made, -1)
    return made


def _arguments(
    pack: str, numbers: tuple[Any, ...], emitter: Emitter, operation: Operation, form: Form
) -> tuple[Node, Node, Node | None]:
    """What is read, the packed weight, and the bias."""
    weight, bias = operation.argument("weight"), operation.argument("bias")

    def recipe() -> Recipe:
        value = emitter.store.value(weight).to(form.dtype)
        return Recipe(pack, "", (value.flatten(1) if pack == "float_linear" else value,), numbers)

    packed = emitter.store.packed((pack, form, weight.target, str(numbers)), recipe)
    return (
        emitter.read(operation.argument("input"), form).node,
        emitter.hold(packed, operation.site.name),
        None if bias is None else emitter.read(bias, form).node,
    )
