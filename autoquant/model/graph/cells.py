"""Cells of recurrent networks as what they compute, so that their products are linear ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional

_ATEN = torch.ops.aten

Linear = Callable[[Tensor], Tensor]
"""A product with the weights of a cell, and its bias."""


def _cell(step: Callable[[Linear, Linear, Tensor, Any], object]) -> Callable[..., object]:
    """A cell by its step: what it reads by, what it keeps by, its input and its state."""

    def cell(
        x: Tensor,
        state: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> object:
        read = partial(functional.linear, weight=w_ih, bias=b_ih)
        keep = partial(functional.linear, weight=w_hh, bias=b_hh)
        return step(read, keep, x, state)

    return cell


def lstm_step(
    read: Linear, keep: Linear, x: Tensor, state: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Give the next hidden and cell state."""
    hidden, cell = state
    enter, forget, new, leave = (keep(hidden) + read(x)).chunk(4, 1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def gru_step(read: Linear, keep: Linear, x: Tensor, hidden: Tensor) -> Tensor:
    """Give the next hidden state."""
    given, kept = read(x).chunk(3, 1), keep(hidden).chunk(3, 1)
    reset, update = (kept[0] + given[0]).sigmoid(), (kept[1] + given[1]).sigmoid()
    new = (given[2] + kept[2] * reset).tanh()
    return (hidden - new) * update + new


CELLS: Mapping[OpOverload, Callable[..., object]] = {
    _ATEN.lstm_cell.default: _cell(lstm_step),
    _ATEN.gru_cell.default: _cell(gru_step),
    _ATEN.rnn_tanh_cell.default: _cell(lambda read, keep, x, h: (keep(h) + read(x)).tanh()),
    _ATEN.rnn_relu_cell.default: _cell(lambda read, keep, x, h: (keep(h) + read(x)).relu()),
}
"""By cell, the order of operations of torch's own CPU kernel."""
