"""The geometry of a convolution, as packing wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from autoquant.backends.torch_cpu.operations import Operation
from autoquant.model.graph.node_shapes import shape_of


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
