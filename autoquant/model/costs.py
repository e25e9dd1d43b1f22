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
    module: nn.Module | None,
    inputs: Sequence[tuple[int, ...]],
    output: tuple[int, ...],
    weight_count: int,
) -> int:
    """Count the multiply-accumulates of one call, over the whole batch.

    A convolution or linear layer spends its weight once for every output position; a transposed
    convolution once for every input position; a recurrent layer once for every step. Ops
    without multiply-accumulates count none.

    Args:
        kind: What the op computes.
        module: The module, None for a function.
        inputs: Shapes of its inputs.
        output: Shape of its output.
        weight_count: Elements of its weight.
    """
    if kind in _CONVOLUTIONS and output:
        channels = output[1]
        return math.prod(output) // channels * weight_count
    if kind in _TRANSPOSED and inputs:
        return math.prod(inputs[0]) // inputs[0][1] * weight_count
    if kind is OpKind.LINEAR and output:
        return math.prod(output) // output[-1] * weight_count
    if kind is OpKind.MATMUL and inputs and output:
        return math.prod(output) * inputs[0][-1]
    if kind in _RECURRENT and inputs and module is not None:
        return math.prod(inputs[0][:2]) * weight_count
    return 0
