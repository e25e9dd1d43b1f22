"""Cells of recurrent networks as what they compute, so that their products are linear ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional

_ATEN = torch.ops.aten


def _lstm(
    x: Tensor,
    state: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    hidden, cell = state
    gates = functional.linear(hidden, w_hh, b_hh) + functional.linear(x, w_ih, b_ih)
    enter, forget, new, leave = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru(
    x: Tensor,
    hidden: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    given = functional.linear(x, w_ih, b_ih).chunk(3, 1)
    kept = functional.linear(hidden, w_hh, b_hh).chunk(3, 1)
    reset, update = (kept[0] + given[0]).sigmoid(), (kept[1] + given[1]).sigmoid()
    new = (given[2] + kept[2] * reset).tanh()
    return (hidden - new) * update + new


def _plain(bound: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def step(
        x: Tensor,
        hidden: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        return bound(functional.linear(hidden, w_hh, b_hh) + functional.linear(x, w_ih, b_ih))

    return step


CELLS: Mapping[OpOverload, Callable[..., object]] = {
    _ATEN.lstm_cell.default: _lstm,
    _ATEN.gru_cell.default: _gru,
    _ATEN.rnn_tanh_cell.default: _plain(torch.tanh),
    _ATEN.rnn_relu_cell.default: _plain(torch.relu),
}
"""By cell, the order of operations of torch's own CPU kernel."""
