"""Convolutions: their geometry, as packing wants it, and where transposed ones are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Node

from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.backends.torch_cpu.operations import Operation
from autoquant.core.quiet import no_warnings
from autoquant.core.sites import OpKind
from autoquant.model.graph.node_shapes import shape_of

_DIMENSIONS = {
    OpKind.CONV_TRANSPOSE1D: 1,
    OpKind.CONV_TRANSPOSE2D: 2,
    OpKind.CONV_TRANSPOSE3D: 3,
}
"""Of transposed convolutions."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Strides and the like, one number for each dimension of the image."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @property
    def packing(self) -> tuple[Any, ...]:
        """The arguments of torch's packing operators behind weight and bias."""
        places = [list(self.stride), list(self.padding)]
        if self.transposed:
            places.append(list(self.output_padding))
        return (*places, list(self.dilation), self.groups)


def is_constant(value: object) -> bool:
    """Whether an argument is a constant of the graph."""
    return isinstance(value, Node) and value.op == "get_attr"


def has_constants(operation: Operation) -> bool:
    """Whether weight and bias of a convolution or linear layer are constants of the graph."""
    bias = operation.argument("bias")
    return is_constant(operation.argument("weight")) and (bias is None or is_constant(bias))


def geometry_of(operation: Operation) -> Geometry | None:
    """Read the geometry; None where weights are computed, or padding differs from side to side."""
    weight = operation.argument("weight")
    shape = shape_of(weight) if isinstance(weight, Node) else None
    if shape is None or not has_constants(operation):
        return None
    dimensions = len(shape) - 2
    image = shape_of(operation.argument("input")) or ()
    if len(image) != len(shape):  # without a batch
        return None
    dilation = _spread(operation.argument("dilation"), dimensions)
    padding = _padding(operation.argument("padding"), shape[2:], dilation)
    if padding is None:
        return None
    groups = int(operation.argument("groups"))
    transposed = "transpose" in operation.name
    return Geometry(
        stride=_spread(operation.argument("stride"), dimensions),
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=transposed,
        output_padding=(
            _spread(operation.argument("output_padding"), dimensions) if transposed else ()
        ),
    )


def _spread(value: Any, dimensions: int) -> tuple[int, ...]:
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(int(item) for item in (numbers * dimensions if len(numbers) == 1 else numbers))


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...] | None:
    """Zeros on each side; None where one side has more of them than the other."""
    if not isinstance(value, str):
        return _spread(value, len(kernel))
    if value == "valid":
        return (0,) * len(kernel)
    reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    return None if any(item % 2 for item in reach) else tuple(item // 2 for item in reach)


@cache
def transposes_rightly(
    engine: str,
    kind: OpKind,
    shape: tuple[int, ...] = (),
    geometry: Geometry | None = None,
) -> bool:
    """Whether the engine's int8 transposed convolution gives what its float one does.

    In torch 2.13 onednn's (and so x86's) gives other values where the number of channels changes,
    qnnpack's for volumes, and fbgemm's where a kernel of 2 x 2 has channels in multiples of 8.
    Found out by running the kernel, once for each geometry in a process, on weights of 7 bits,
    which no CPU saturates at.

    Args:
        engine: A quantized engine.
        kind: A transposed convolution.
        shape: Of the weight (inputs, outputs by group, kernel); empty: a usual layer.
        geometry: None: as torch takes it where nothing is said.
    """
    dimensions = _DIMENSIONS[kind]
    ones, zeros = (1,) * dimensions, (0,) * dimensions
    shape = shape or (2, 4, *[3] * dimensions)
    given = geometry or Geometry(ones, zeros, ones, 1, transposed=True, output_padding=zeros)
    seed = torch.Generator().manual_seed(0)
    floats = torch.randn(1, shape[0], *[6] * dimensions, generator=seed)
    with using_engine(engine), no_warnings(), torch.no_grad():
        weight = torch.quantize_per_tensor(
            torch.randn(shape, generator=seed).clamp(-3.5, 3.5), 3.5 / 63, 0, torch.qint8
        )
        read = torch.quantize_per_tensor(floats, 8 / 255, 128, torch.quint8)
        convolve = getattr(F, f"conv_transpose{dimensions}d")
        *places, dilation, groups = given.packing
        expected = convolve(read.dequantize(), weight.dequantize(), None, *places, groups, dilation)
        scale = float(expected.abs().max()) / 127
        pack = getattr(torch.ops.quantized, f"conv_transpose{dimensions}d_prepack")
        run = getattr(torch.ops.quantized, f"conv_transpose{dimensions}d")
        try:
            packed = pack(weight, None, *given.packing)
            found = run(read, packed, scale, 128).dequantize()
        except RuntimeError:
            return False
    return bool((found - expected).abs().max() < 2 * scale)
