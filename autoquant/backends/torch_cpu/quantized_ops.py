"""The kernels of `torch.ops.quantized`: int8 in, int8 out, on tensors that carry their grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from autoquant.backends.torch_cpu.averages import AVERAGES, emit_average
from autoquant.backends.torch_cpu.convolutions import (
    Geometry,
    geometry_of,
    has_constants,
    transposes_rightly,
)
from autoquant.backends.torch_cpu.emission import Emitter
from autoquant.backends.torch_cpu.engines import has_float_output_linear
from autoquant.backends.torch_cpu.forms import Form
from autoquant.backends.torch_cpu.operations import Kernel, Operation, argument
from autoquant.backends.torch_cpu.packed_weights import Recipe
from autoquant.core.precision import Scheme
from autoquant.core.sites import TRANSPOSED
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.node_shapes import fixed_sizes, shape_of

_QUANTIZED = torch.ops.quantized
_ATEN = torch.ops.aten

_CONVOLUTIONS: Mapping[str, tuple[Any, Any]] = {
    "conv1d": (_QUANTIZED.conv1d.default, _QUANTIZED.conv1d_relu.default),
    "conv2d": (_QUANTIZED.conv2d.new, _QUANTIZED.conv2d_relu.new),
    "conv3d": (_QUANTIZED.conv3d.new, _QUANTIZED.conv3d_relu.new),
    "conv_transpose1d": (_QUANTIZED.conv_transpose1d.default, None),
    "conv_transpose2d": (_QUANTIZED.conv_transpose2d.default, None),
    "conv_transpose3d": (_QUANTIZED.conv_transpose3d.default, None),
}
"""Alone, and with a relu."""

_QNNPACK_LACKS = frozenset({"conv3d", "conv_transpose3d", "hardtanh", "matmul", "max_pool3d"})
"""Its hardtanh gives the values of images in channels last in another order."""

_KEEPS_GRID: Mapping[str, Grid | None] = {
    "hardsigmoid": Grid(1.0 / 256.0, 0, 0, 255),
    "hardtanh": None,
    "max_pool1d": None,
    "max_pool2d": None,
    "max_pool3d": None,
    "relu": None,
    "tanh": Grid(2.0 / 256.0, 128, 0, 255),
}
"""ATen ops that take integers as they are; the grid of what they give, None: their input's."""


def int8_kernel(operation: Operation, engine: str) -> Kernel | None:
    """Give the int8 kernel of an operation; None: its kind has none with these arguments."""
    name = operation.name
    if engine == "qnnpack" and name in _QNNPACK_LACKS:
        return None
    if name in _CONVOLUTIONS:
        return _convolution_kernel(operation, engine)
    if name == "linear":
        return _linear_kernel(operation, engine)
    emit = _emission_of(operation)
    return None if emit is None else Kernel(Form.QUINT8, (Form.QUINT8,), emit, Scheme.INT8)


def saturates_at(node: Node, grid: Grid) -> bool:
    """Whether writing to a grid does what an activation does: the grid ends where it cuts."""
    name = str(node.target.overloadpacket.__name__)  # type: ignore[union-attr]
    if name != "hardtanh":
        return False
    slack = grid.scale / 2
    return bool(
        grid.lowest >= float(argument(node, "min_val")) - slack
        and grid.highest <= float(argument(node, "max_val")) + slack
    )


def _write(
    emitter: Emitter,
    operation: Operation,
    out: Form,
    target: Any,
    *given: Any,
    behind: Sequence[Any] = (),
) -> None:
    """Write a kernel that takes what is given, then the grid of its result, then what is behind."""
    grid = emitter.grids.int8_grid(operation.last.name)
    made = emitter.call(target, *given, *grid.numbers, *behind)
    emitter.put(operation.last, out, made, grid)


def _convolution_kernel(operation: Operation, engine: str) -> Kernel | None:
    geometry = geometry_of(operation)
    if geometry is None:
        return None
    if operation.site.kind in TRANSPOSED and not transposes_rightly(
        engine,
        operation.site.kind,
        tuple(map(int, shape_of(operation.argument("weight")) or ())),
        geometry,
    ):
        return None
    return Kernel(Form.QUINT8, (Form.QUINT8,), partial(_convolve, engine, geometry), Scheme.INT8)


def _convolve(
    engine: str, geometry: Geometry, emitter: Emitter, operation: Operation, out: Form
) -> None:
    plain, with_relu = _CONVOLUTIONS[operation.name]
    read = emitter.read(operation.argument("input"), Form.QUINT8)
    round_weight = partial(emitter.store.quantized, per_channel=not geometry.transposed)
    pack = operation.name
    packed = packed_weight(emitter, operation, engine, pack, round_weight, geometry.packing)
    target = with_relu if operation.has_relu and with_relu is not None else plain
    _write(emitter, operation, out, target, read.node, packed)


def packed_weight(
    emitter: Emitter,
    operation: Operation,
    engine: str,
    pack: str,
    round_weight: Callable[[Node], Tensor],
    numbers: tuple[Any, ...] = (),
    use: str = "",
) -> Node:
    """Pack the weight and the bias of an operation for an engine and a use, once, and read them."""
    weight, bias = operation.argument("weight"), operation.argument("bias")
    store = emitter.store

    def recipe() -> Recipe:
        values = round_weight(weight), None if bias is None else store.value(bias)
        return Recipe(pack, engine, values, numbers)

    key = (engine, pack, use, weight.target, bias and bias.target, str(numbers))
    return emitter.hold(store.packed(key, recipe), operation.site.name)


def linear_weight(emitter: Emitter, operation: Operation, engine: str, use: str) -> Node:
    """Pack the weight of a linear layer and read it.

    onednn keeps in a packed weight what its first call made of it: another kernel (`use`) that
    reads the same one crashes.
    """
    round_weight = partial(emitter.store.quantized, per_channel=True)
    return packed_weight(emitter, operation, engine, "linear", round_weight, use=use)


def _linear_kernel(operation: Operation, engine: str) -> Kernel | None:
    if not has_constants(operation):
        return None
    floats = (Form.FLOAT32,) if has_float_output_linear(engine) else ()
    return Kernel(Form.QUINT8, (Form.QUINT8, *floats), partial(_multiply, engine), Scheme.INT8)


def _multiply(engine: str, emitter: Emitter, operation: Operation, out: Form) -> None:
    packed = linear_weight(emitter, operation, engine, "linear")
    if out is Form.FLOAT32:
        _multiply_to_float(emitter, operation, packed)
        return
    read = emitter.read(operation.argument("input"), Form.QUINT8)
    target = (_QUANTIZED.linear_relu if operation.has_relu else _QUANTIZED.linear).default
    _write(emitter, operation, out, target, read.node, packed)


def _multiply_to_float(emitter: Emitter, operation: Operation, packed: Node) -> None:
    """One kernel quantizes the input, multiplies integers and gives floats, unrounded."""
    source = operation.argument("input")
    grid = None
    if Form.QUINT8 in emitter.forms(source):
        grid = emitter.read(source, Form.QUINT8).grid
    grid = grid or emitter.grids.int8_grid(source.name)
    floats = emitter.read(source, Form.FLOAT32)
    target = (
        _QUANTIZED.linear_with_input_q_dq_qweight_dq_relu_output_fp32
        if operation.has_relu
        else _QUANTIZED.linear_with_input_q_dq_qweight_dq_output_fp32
    ).default
    made = emitter.call(target, floats.node, grid.scale, grid.zero_point, packed)
    emitter.put(operation.last, Form.FLOAT32, made)


def _emission_of(operation: Operation) -> Callable[[Emitter, Operation, Form], None] | None:
    """How an op without weight is written; None where it has no kernel."""
    name = operation.name
    if name in AVERAGES:
        return emit_average
    if name in _KEEPS_GRID:
        return _keep_grid
    if name in ("add", "mul"):
        return _combine
    if name in ("matmul", "bmm", "mm"):
        return _matmul
    if name == "cat":
        return _concatenate
    if name == "batch_norm":
        return _normalize if len(shape_of(operation.root) or ()) in _NORMS else None
    if name == "leaky_relu":
        return _leak
    return _activate if name in _ACTIVATIONS else None


def _keep_grid(emitter: Emitter, operation: Operation, out: Form) -> None:
    root = operation.root
    read = emitter.read(root.args[0], Form.QUINT8)
    made = emitter.call(root.target, read.node, *root.args[1:], **root.kwargs)
    emitter.put(operation.last, out, made, _KEEPS_GRID[operation.name] or read.grid)


def _combine(emitter: Emitter, operation: Operation, out: Form) -> None:
    left, right = (_read_operand(emitter, operation, place) for place in (0, 1))
    alpha = operation.argument("alpha") if operation.name == "add" else 1
    other = right
    if alpha != 1:
        other = emitter.call(_QUANTIZED.mul_scalar.default, other, float(alpha))
    packet = getattr(_QUANTIZED, f"{operation.name}_relu" if operation.has_relu else operation.name)
    _write(emitter, operation, out, packet.default, left, other)


def _read_operand(emitter: Emitter, operation: Operation, place: int) -> Node:
    """Read an operand; one number for each channel of an image as an image.

    torch's kernels start anew at every pixel where they spread numbers over an image themselves.
    Its upsampling takes an image of one pixel for channels last whatever its strides, and writes
    that order into a result laid out by the strides: so they are made to say so.
    """
    sources: Any = operation.root.args
    read = emitter.read(sources[place], Form.QUINT8).node
    image, own = fixed_sizes(operation.root), fixed_sizes(sources[place])
    space = [size for size in image[2:] if size is not None]
    if len(image) != 4 or len(space) != 2 or own[2:] != (1, 1) or math.prod(space) < _PIXELS:
        return read
    rows = emitter.call(_ATEN.flatten.using_ints, read, 1)
    for _ in range(2):
        rows = emitter.call(_ATEN.unsqueeze.default, rows, 1)
    pixel = emitter.call(_ATEN.permute.default, rows, [0, 3, 1, 2])
    spread = emitter.call(_ATEN.upsample_nearest2d.default, pixel, space)
    return emitter.call(_ATEN.contiguous.default, spread, memory_format=torch.channels_last)


def _matmul(emitter: Emitter, operation: Operation, out: Form) -> None:
    left, right = (emitter.read(item, Form.QUINT8).node for item in operation.root.args[:2])
    _write(emitter, operation, out, _QUANTIZED.matmul.default, left, right)


def _concatenate(emitter: Emitter, operation: Operation, out: Form) -> None:
    parts = [emitter.read(item, Form.QUINT8).node for item in operation.argument("tensors")]
    _write(emitter, operation, out, _QUANTIZED.cat.default, parts, operation.argument("dim"))


_PIXELS = 64
"""Of an image from which on spreading numbers over it pays."""

_NORMS = {4: _QUANTIZED.batch_norm2d, 5: _QUANTIZED.batch_norm3d}
_NORMS_WITH_RELU = {4: _QUANTIZED.batch_norm2d_relu, 5: _QUANTIZED.batch_norm3d_relu}


def _normalize(emitter: Emitter, operation: Operation, out: Form) -> None:
    read = emitter.read(operation.argument("input"), Form.QUINT8)
    names = ("weight", "bias", "running_mean", "running_var")
    values = [operation.argument(name) for name in names]
    channels = shape_of(operation.argument("running_mean")) or ()
    neutral = (torch.ones, torch.zeros, None, None)  # the kernel wants a factor and a shift
    floats = [
        emitter.hold(make(channels), f"{operation.last.name}_{name}")
        if make and item is None
        else emitter.read(item, Form.FLOAT32).node
        for name, item, make in zip(names, values, neutral, strict=True)
    ]
    table = _NORMS_WITH_RELU if operation.has_relu else _NORMS
    packet = table[len(shape_of(operation.root) or ())]
    _write(emitter, operation, out, packet.default, read.node, *floats, operation.argument("eps"))


def _activate(emitter: Emitter, operation: Operation, out: Form) -> None:
    read = emitter.read(operation.root.args[0], Form.QUINT8).node
    target, names = _ACTIVATIONS[operation.name]
    _write(emitter, operation, out, target, read, behind=[*map(operation.argument, names)])


def _leak(emitter: Emitter, operation: Operation, out: Form) -> None:
    read = emitter.read(operation.root.args[0], Form.QUINT8).node
    slope = operation.argument("negative_slope")
    _write(emitter, operation, out, _QUANTIZED.leaky_relu.default, read, slope, False)


_ACTIVATIONS: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "elu": (_QUANTIZED.elu.default, ("alpha", "scale", "input_scale")),
    "hardswish": (_QUANTIZED.hardswish.default, ()),
    "sigmoid": (_QUANTIZED.sigmoid.default, ()),
}
"""Kernels of activations, and their arguments behind the grid of the result."""
