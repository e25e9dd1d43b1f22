"""Arithmetic cost of an op, from its shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from autoquant.core.sites import OpKind

_CONVOLUTIONS = frozenset({OpKind.CONV1D, OpKind.CONV2D, OpKind.CONV3D})
_TRANSPOSED = frozenset({OpKind.CONV_TRANSPOSE1D, OpKind.CONV_TRANSPOSE2D, OpKind.CONV_TRANSPOSE3D})
_RECURRENT = frozenset({OpKind.LSTM, OpKind.GRU})


def weight_count_of(module: nn.Module) -> int:
    """Count the elements of a module's weights, biases and norm parameters left out."""
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if name.rpartition(".")[2].startswith("weight")
    )


def macs_of(
    kind: OpKind,
    inputs: Sequence[tuple[int, ...]],
    output: tuple[int, ...],
    weight_count: int,
) -> int:
    """Count the multiply-accumulates of one call, over the whole batch.

    A convolution or linear layer spends its weight once for every output position; a transposed
    convolution once for every input position; a recurrent layer once for every step; attention
    is two products. Ops without multiply-accumulates count none.

    Args:
        kind: What the op computes.
        inputs: Shapes of the tensors that it reads, weights left out.
        output: Shape of its output.
        weight_count: Elements of its weight.
    """
    if not inputs or not output:
        return 0
    if kind in _CONVOLUTIONS:
        return math.prod(output) // output[1] * weight_count
    if kind in _TRANSPOSED:
        return math.prod(inputs[0]) // inputs[0][1] * weight_count
    if kind is OpKind.LINEAR:
        return math.prod(output) // output[-1] * weight_count
    if kind is OpKind.MATMUL:
        return math.prod(output) * inputs[0][-1]
    if kind is OpKind.ATTENTION and len(inputs) > 1:
        return math.prod(output) * inputs[1][-2] * 2
    if kind in _RECURRENT:
        return math.prod(inputs[0][:-1]) * weight_count
    return 0
