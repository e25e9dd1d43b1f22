"""Averages in integers: on the grid of what they average, or on a finer one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from autoquant.backends.torch_cpu.emission import Emitter
from autoquant.backends.torch_cpu.forms import Form
from autoquant.backends.torch_cpu.operations import Operation
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.node_shapes import fixed_sizes

AVERAGES = frozenset(
    {
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "mean",
    }
)
"""Ops whose values may need a much finer grid than their input's, which torch's kernels keep."""

_COARSE = 2.0
"""An average keeps a grid that costs it up to one of eight bits. Where few channels are large, a
bit of theirs is all that the others have left."""

_ATEN = torch.ops.aten


def is_too_coarse(operation: Operation, read: Grid, own: Grid) -> bool:
    """Whether an average in integers, of `AVERAGES`, would cost more than a bit of its own grid."""
    divisor = _divisor(operation, read, own)
    share = 1.0 if divisor is None else divisor / math.prod(_pixels(operation))
    return read.scale * share > _COARSE * own.scale


def emit_average(emitter: Emitter, operation: Operation, out: Form) -> None:
    """Write an average: torch's op on the grid of what it reads, or a finer one.

    A pool that divides by less than it has summed gives a multiple of the average, which is the
    average on a grid that is finer by as much. It is written as a pool of volumes, because
    qnnpack's of images takes no divisor.
    """
    root = operation.root
    read = emitter.read(root.args[0], Form.QUINT8)
    divisor = _divisor_by_calibration(emitter, operation, read.grid)
    if divisor is None or read.grid is None:
        made = emitter.call(root.target, read.node, *root.args[1:], **root.kwargs)
        emitter.put(operation.last, out, made, read.grid)
        return
    kernel = _pixels(operation)
    share = divisor / math.prod(kernel)
    made = _multiple(emitter, read.node, kernel, divisor)
    made = emitter.call(torch.ops.quantized.mul_scalar.default, made, share)
    if operation.name == "mean" and not operation.argument("keepdim"):
        made = emitter.call(_ATEN.flatten.using_ints, made, 1)
    grid = replace(read.grid, scale=read.grid.scale * share)
    emitter.put(operation.last, out, made, grid)


def _multiple(emitter: Emitter, image: Node, kernel: Sequence[int], divisor: int) -> Node:
    is_flat = len(kernel) == 2
    volume = emitter.call(_ATEN.unsqueeze.default, image, 2) if is_flat else image
    window = [1, *kernel] if is_flat else list(kernel)
    pool = _ATEN.avg_pool3d.default
    made = emitter.call(pool, volume, window, window, [0, 0, 0], False, True, divisor)
    return emitter.call(_ATEN.squeeze.dim, made, 2) if is_flat else made


def _divisor_by_calibration(
    emitter: Emitter, operation: Operation, read: Grid | None
) -> int | None:
    try:
        own = emitter.grids.int8_grid(operation.last.name)
    except ValueError:  # calibration did not see it
        return None
    return None if read is None else _divisor(operation, read, own)


def _divisor(operation: Operation, read: Grid, own: Grid) -> int | None:
    """The least number to divide by that cuts off no average of calibration's range.

    None where the grid of what is averaged will do, or the number of pixels is not fixed.
    """
    count = math.prod(_pixels(operation))
    if read.scale <= _COARSE * own.scale or count == 1:
        return None
    ends = (own.lowest, read.lowest), (own.highest, read.highest)
    share = max(1.0 if there == 0.0 else need / there for need, there in ends if need)
    return min(max(1, math.ceil(share * count)), count)


def _pixels(operation: Operation) -> tuple[int, ...]:
    """Sizes of the image or volume that an op averages whole; none where that is not so."""
    source: Any = operation.root.args[0]
    sizes = fixed_sizes(source)
    space = tuple(size for size in sizes[2:] if size is not None)
    if len(sizes) not in (4, 5) or len(space) != len(sizes) - 2:
        return ()
    return space if _averages_all(operation, len(sizes)) else ()


def _averages_all(operation: Operation, rank: int) -> bool:
    """Whether an op gives one number for each sample and channel."""
    if operation.name.startswith("adaptive"):
        wanted = operation.argument("output_size")
        return all(size == 1 for size in wanted)
    if operation.root.target is not _ATEN.mean.dim or operation.argument("dtype") is not None:
        return False
    axes = operation.argument("dim")
    return axes is not None and sorted(axis % rank for axis in axes) == list(range(2, rank))
