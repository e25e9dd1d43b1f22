"""Recurrent layers step by step, their hidden state rounded wherever a product reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from autoquant.model.graph.cells import gru_step, lstm_step

_ATEN = torch.ops.aten
RECURRENT_LAYERS: Mapping[Any, Callable[..., Any]] = {
    _ATEN.lstm.input: lstm_step,
    _ATEN.gru.input: lambda read, keep, x, state: (gru_step(read, keep, x, state[0]),),
}
"""By op, what one step does; it takes and gives the states as a tuple, the hidden one first."""


def run_layers(
    target: Any, args: Sequence[Any], rounding: Callable[[Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """Compute a node of `RECURRENT_LAYERS` as torch's dynamic kernels do.

    They round the input of a layer as a whole and the hidden state at each step, and keep what
    lies between in floats (`FullLayer` in torch's RNN.cpp).

    Args:
        target: The op.
        args: Its arguments, of which the input is rounded already where the op rounds it.
        rounding: Rounds hidden states, and what one layer gives to the next.

    Returns:
        As the op has them: the outputs, then the states of all layers.
    """
    x, state, params, has_biases, layers, _, _, bidirectional, batch_first = args
    x = x.transpose(0, 1) if batch_first else x
    starts = list(zip(*(state if isinstance(state, (list, tuple)) else [state]), strict=True))
    size = 4 if has_biases else 2
    directions = 2 if bidirectional else 1
    ends = []
    for layer in range(layers):
        given = x if layer == 0 else rounding(x)
        outputs = []
        for index in range(layer * directions, (layer + 1) * directions):
            weights = params[size * index : size * (index + 1)]
            is_backward = index % directions == 1
            steps = given.flip(0) if is_backward else given
            hidden, end = _run_layer(
                RECURRENT_LAYERS[target], steps, starts[index], weights, rounding
            )
            outputs.append(hidden.flip(0) if is_backward else hidden)
            ends.append(end)
        x = torch.cat(outputs, -1)
    output = x.transpose(0, 1) if batch_first else x
    return (output, *map(torch.stack, zip(*ends, strict=True)))


def _run_layer(
    step: Callable[..., Any],
    steps: Tensor,
    state: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    rounding: Callable[[Tensor], Tensor],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The hidden states of one layer in one direction, shape (steps, batch, size), and the end."""
    w_ih, w_hh = weights[:2]
    b_ih, b_hh = weights[2:] or (None, None)
    hidden = []
    for x in linear(steps, w_ih, b_ih):
        state = step(lambda given: given, lambda kept: linear(rounding(kept), w_hh, b_hh), x, state)
        hidden.append(state[0])
    return torch.stack(hidden), state
