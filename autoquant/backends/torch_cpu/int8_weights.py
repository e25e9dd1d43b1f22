"""Linear layers of int8 weights between floats in bf16: torch's `_weight_int8pack_mm`.

One thread of AVX2, torch 2.13, 1,024 inputs and 4,096 outputs: 0.5 times the time of fp32 on one
row, 0.3 on 4, 0.5 on 8; 2 times on 64 rows of 256 inputs. On fp32 and fp16 the same kernel takes
6 to 90 times as long as fp32, so that it is given bf16 alone. It computes
bf16(sum(bf16(x) * w) * scale), with its sum in fp32 and its scales in bf16.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from autoquant.backends.torch_cpu.convolutions import has_constants
from autoquant.backends.torch_cpu.emission import Emitter
from autoquant.backends.torch_cpu.float_ops import emit_each
from autoquant.backends.torch_cpu.forms import Form
from autoquant.backends.torch_cpu.operations import Kernel, Operation
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.model.graph.node_shapes import fixed_sizes
from autoquant.model.numerics.weight_grids import WeightGrid, weight_grid

_ATEN = torch.ops.aten
_STEP = 32
"""Inputs that the widest of its loops takes at once; it reads on behind a row that ends within
one: 31 inputs crash, 33 give infinities."""


def reads_whole(site: Site) -> bool:
    """Whether the kernel reads rows of this width as they are."""
    return site.weight_row % _STEP == 0


def int8_weight_kernel(operation: Operation) -> Kernel | None:
    """Give the kernel; None for other ops, weights that are computed, and other widths."""
    if operation.name != "linear" or not has_constants(operation):
        return None
    if not reads_whole(operation.site):
        return None
    return Kernel(Form.BFLOAT16, (Form.BFLOAT16,), _multiply, Scheme.INT8_WEIGHT_ONLY_BF16)


def _multiply(emitter: Emitter, operation: Operation, out: Form) -> None:
    read, bias = operation.argument("input"), operation.argument("bias")
    given = emitter.read(read, out).node
    width = operation.site.weight_row
    rows = emitter.call(_ATEN.reshape.default, given, [-1, width])
    made = emitter.call(
        _ATEN._weight_int8pack_mm.default,
        emitter.call(_ATEN.contiguous.default, rows),
        *_weight(emitter, operation),
    )
    if bias is not None:
        made = emitter.call(_ATEN.add.Tensor, made, emitter.read(bias, out).node)
    sizes = [
        emitter.call(_ATEN.sym_size.int, given, axis) if size is None else size
        for axis, size in enumerate(fixed_sizes(read)[:-1])
    ]
    made = emitter.call(_ATEN.reshape.default, made, [*sizes, operation.site.weight_channels])
    emitter.put(operation.root, out, made)
    emit_each(emitter, operation.nodes[1:], out)


def _weight(emitter: Emitter, operation: Operation) -> tuple[Node, Node]:
    """The integers, shape (outputs, inputs), and their scales, shape (outputs,)."""
    source, store = operation.argument("weight"), emitter.store
    grid = weight_grid(operation.site.kind, Scheme.INT8_WEIGHT_ONLY_BF16)
    if not isinstance(grid, WeightGrid):
        raise TypeError(f"linear layers have no {grid}")

    scale = store.made(
        ("scales in bfloat16", source.target),
        lambda: grid.scale(store.value(source)).to(torch.bfloat16),
    )
    codes = store.made(
        ("integers under them", source.target),
        lambda: grid.codes(store.value(source), scale.float()).to(torch.int8),
    )
    name = operation.site.name
    return emitter.hold(codes, f"{name}_int8"), emitter.hold(scale, f"{name}_scale")
