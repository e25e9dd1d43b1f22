"""Runs a graph and keeps, beside every tensor, which of its channels share scales."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from autoquant.model.equalisation.parameters import Parameters
from autoquant.model.equalisation.ties import ONE, Channels, Ties
from autoquant.model.graph.aten import SHAPE_READING_OPS, op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.float_model import paths_within
from autoquant.model.graph.scopes import scope_of


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One op as it runs."""

    node: Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any

    @property
    def rank(self) -> int:
        """Dimensions of what it gives."""
        return int(self.value.ndim)

    def given(self, place: int, name: str, default: Any = None) -> Any:
        """An argument's value by its place, or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def read(self, place: int) -> Any:
        """The node, or the plain value, at a place of the arguments; None where there is none."""
        return self.node.args[place] if len(self.node.args) > place else None


Rule = Callable[["Walk", Call], Any]
"""Gives the channels of a result, once what the op asks for is noted; None: it hands none on."""


class Walk(Interpreter):
    """Runs a graph and keeps the channels of every tensor beside its value.

    Args:
        captured: The graph.
        model: It was captured from this model.
        fixed: Nodes whose tensors must stay as they are.
        rule_of: By name of an op, what it hands on; None: nothing.

    Attributes:
        ties: Which channels share scales.
        parameters: What takes the scales up.
        weights: Paths of weights in the graph, and the channels that they read.
        channels: By node, those of what it gives.
    """

    def __init__(
        self,
        captured: Capture,
        model: nn.Module,
        fixed: Collection[str],
        rule_of: Callable[[str], Rule | None],
    ) -> None:
        super().__init__(captured.graph)
        self.ties = Ties()
        self.parameters = Parameters(captured, model, self.ties)
        self.weights: list[tuple[str, Channels]] = []
        self.channels: dict[Node, Any] = {}
        self._shapes: dict[Node, Any] = {}
        self._fixed = fixed
        self._rule_of = rule_of
        self._within = paths_within(dict(model.named_modules()), captured.leaf_modules)

    def run_node(self, n: Node) -> Any:
        """Run one node and find the channels of what it gives."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = super().run_node(n)
        self._shapes[n] = pytree.tree_map(_shape, value)
        if n.op == "output":
            self.fix(*n.all_input_nodes)
        found = None
        if n.op == "call_function" and scope_of(n) not in self._within:
            found = self._apply(Call(n, args, kwargs, value))
        if found is None:  # nothing is known of this op
            self.fix(*n.all_input_nodes)
            found = pytree.tree_map(_unscaled, value)
        self.channels[n] = found
        if n.name in self._fixed:
            self.fix(n)
        return value

    def of(self, node: Any) -> Channels:
        """Channels of one tensor, or of a number."""
        found = self.channels.get(node) if isinstance(node, Node) else None
        return found if isinstance(found, np.ndarray) else np.array(ONE)

    def fix(self, *nodes: Node) -> None:
        """Keep tensors as they are."""
        for node in nodes:
            for channels in pytree.tree_leaves(self.channels.get(node)):
                if isinstance(channels, np.ndarray):
                    self.ties.fix(channels)

    def shape(self, node: Node) -> tuple[int, ...]:
        """Shape of a tensor."""
        found: tuple[int, ...] = self._shapes[node]
        return found

    def line(self, node: Node, axis: int) -> Channels:
        """Channels along one axis, shape (size,); fixed where they differ along another too."""
        channels, shape = self.of(node), self.shape(node)
        axis %= len(shape)
        if any(size > 1 for place, size in enumerate(channels.shape) if place != axis):
            self.ties.fix(channels)
            return np.full(shape[axis], ONE)
        return np.broadcast_to(channels.reshape(-1), (shape[axis],))

    def _apply(self, call: Call) -> Any:
        name, node = op_name(call.node), call.node
        if name in SHAPE_READING_OPS:
            return pytree.tree_map(_unscaled, call.value)
        if not _is_float(call.value):
            return None
        if node.target is operator.getitem:
            parts = self.channels[node.all_input_nodes[0]]
            return parts[call.args[1]] if isinstance(parts, (list, tuple)) else None
        rule = self._rule_of(name)
        return None if rule is None else rule(self, call)


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _unscaled(value: Any) -> Any:
    return np.full([1] * value.ndim, ONE) if _is_float(value) else None


def _is_float(value: Any) -> bool:
    leaves = pytree.tree_leaves(value)
    return bool(leaves) and all(
        isinstance(item, Tensor) and item.is_floating_point() for item in leaves
    )
