"""A captured graph in float64: what it computes without the rounding of float32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from autoquant.model.data.calling import Calling
from autoquant.model.graph.captured import Capture

Run = Callable[[tuple[Tensor, ...]], Any]


def graph_in_float64(captured: Capture) -> Run:
    """Give the captured graph as a function that computes in float64.

    Folded constants are folded in float64 too. The function raises what torch raises where an op
    has no float64 kernel.
    """
    with _by_default(torch.float64), torch.no_grad():
        folded = {} if captured.weights is None else _InFloat64(captured.weights).run()

    def run(inputs: tuple[Tensor, ...]) -> Any:
        with _by_default(torch.float64):
            return _InFloat64(captured.graph, folded).run(*map(_widened, inputs))

    return run


def model_in_float64(model: nn.Module, calling: Calling) -> Run:
    """Give a copy of a model as a function that computes in float64, as far as its code lets it."""
    wide = copy.deepcopy(model).double()

    def run(inputs: tuple[Tensor, ...]) -> Any:
        with _by_default(torch.float64):
            return calling.call(wide, tuple(map(_widened, inputs)))

    return run


class _InFloat64(Interpreter):
    """Runs a graph with float64 wherever it says float32, weights included."""

    def __init__(self, graph: GraphModule, constants: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(graph)
        self._constants = constants or {}

    def fetch_attr(self, target: str) -> Any:
        """A constant."""
        return _widened(self._constants.get(target, super().fetch_attr(target)))

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of an op."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return pytree.tree_map(_widened, args), pytree.tree_map(_widened, kwargs)


def _widened(value: Any) -> Any:
    """float64 for float32, in tensors and in names of formats."""
    if value is torch.float32:
        return torch.float64
    is_single = isinstance(value, Tensor) and value.dtype is torch.float32
    return value.double() if is_single else value


@contextmanager
def _by_default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
