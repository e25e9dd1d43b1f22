"""Recurrent layers under torch.export: any number of steps, and no step is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._decomp import decomposition_table
from torch.fx import Node


def _lstm(x: Tensor, state: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What an LSTM gives: steps of shape (batch, steps, size) or (steps, batch, size), states."""
    hidden, cell = state
    return _steps(x, hidden, *rest), torch.empty_like(hidden), torch.empty_like(cell)


def _one_state(x: Tensor, hidden: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """What a GRU or a plain recurrent layer gives."""
    return _steps(x, hidden, *rest), torch.empty_like(hidden)


def _steps(x: Tensor, hidden: Tensor, *rest: Any) -> Tensor:
    *_, bidirectional, _batch_first = rest
    return x.new_empty(*x.shape[:2], hidden.shape[2] * (2 if bidirectional else 1))


_SHAPES: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.lstm.input: _lstm,
    torch.ops.aten.gru.input: _one_state,
    torch.ops.aten.rnn_tanh.input: _one_state,
    torch.ops.aten.rnn_relu.input: _one_state,
}
"""By op, what gives tensors of the shapes of its results."""


def number_of_steps(node: Node) -> int | torch.SymInt | None:
    """How many steps a recurrent layer takes, a number or open; None: the node is none."""
    if node.target not in _SHAPES:
        return None
    read: Any = node.args[0]
    batch_first = node.args[-1]
    steps: int | torch.SymInt = read.meta["val"].shape[1 if batch_first else 0]
    return steps


def is_projected(node: Node) -> bool:
    """Whether it is an LSTM that projects its state, which few engines have."""
    if node.target is not torch.ops.aten.lstm.input:
        return False
    given: tuple[Any, ...] = node.args
    _, _, weights, biased, layers, _, _, bidirectional, _ = given
    plain: int = layers * (2 if bidirectional else 1) * (4 if biased else 2)
    return len(weights) != plain


@contextmanager
def recurrent_shapes() -> Iterator[None]:
    """Tell torch.export the shapes of what recurrent layers give.

    It finds them by running every step in Python, which fixes how many there are (and takes
    minutes for long ones). The layers are ops of their own in the exported graph either way.
    """
    with ExitStack() as stack:
        for op, shapes in _SHAPES.items():
            stack.enter_context(_replaced(op, shapes))
        yield


@contextmanager
def _replaced(op: Any, kernel: Callable[..., Any]) -> Iterator[None]:
    """Have a kernel in both places where torch has Python of its own for an op."""
    places: list[tuple[dict[Any, Any], Any]] = [
        (op.py_kernels, DispatchKey.CompositeImplicitAutograd),
        (decomposition_table, op),
    ]
    before = [table[key] for table, key in places]
    for table, key in places:
        table[key] = kernel
    op._dispatch_cache.clear()
    try:
        yield
    finally:
        for (table, key), known in zip(places, before, strict=True):
            table[key] = known
        op._dispatch_cache.clear()
