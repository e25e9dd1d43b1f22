"""Run a model that torch quantized, and let each op's tensor be seen as it is computed."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.comparing.pairing import OpPair
from autoquant.comparing.runs import See, first_tensor
from autoquant.model.data.trees import copied

_IN_PLACE_FUNCTIONS = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv})


class QuantizedRun(Interpreter):
    """Computes the quantized model, and shows each paired op's output beside the float one.

    Where it feeds floats, every op's output is replaced by the float model's, in the format that
    the output had, before anything reads it: each op errs by itself alone.
    """

    def __init__(
        self, graph: GraphModule, pairs: Sequence[OpPair], see: See, *, feeds_float: bool
    ) -> None:
        super().__init__(graph)
        nodes = {node.name: node for node in graph.graph.nodes}
        self._see = see
        self._feeds_float = feeds_float
        self._at = {nodes[pair.found[-1] if feeds_float else pair.output]: pair for pair in pairs}
        self._rounding = {
            pair: tuple(nodes[name] for name in pair.rounding) for pair in self._at.values()
        }
        self._overwritten = frozenset(_overwritten(graph))
        self._expected: Mapping[str, Any] = {}

    def beside(self, inputs: Sequence[Any], expected: Mapping[str, Any]) -> Any:
        """Run one batch beside what the float graph gave; gives the outputs."""
        self._expected = expected
        return self.run(*inputs)

    def run_node(self, n: Node) -> Any:
        """Run a node; at an op's output, show it and perhaps replace it."""
        value = super().run_node(n)
        pair = self._at.get(n)
        if pair is None:
            return value
        expected = self._expected[pair.expected[-1]]
        rounded = self._round(pair, n, value) if self._feeds_float else value
        first, second = first_tensor(expected), first_tensor(rounded)
        if first is not None and second is not None and first.shape == second.shape:
            self._see(pair, first, second)
        if not self._feeds_float or n.op == "placeholder":
            return value
        forced = like(expected, value)
        return copied(forced) if n in self._overwritten else forced

    def _round(self, pair: OpPair, node: Node, value: Any) -> Any:
        """What readers see of an output: the nodes behind it, applied to it."""
        for rounding in self._rounding[pair]:
            given = {node: value}

            def find(item: Node, given: dict[Node, Any] = given) -> Any:
                if item.op == "get_attr":
                    return self.fetch_attr(str(item.target))
                return given[item] if item in given else self.env[item]

            args, kwargs = map_arg((rounding.args, rounding.kwargs), find)
            value = getattr(self, rounding.op)(rounding.target, args, kwargs)
            node = rounding
        return value


def like(expected: Any, found: Any) -> Any:
    """Float values in the format of quantized ones, leaf by leaf as far as both have them."""
    first = pytree.tree_leaves(expected)
    second, structure = pytree.tree_flatten(found)
    cast = [_cast(*pair) for pair in zip(first, second, strict=False)]
    return pytree.tree_unflatten([*cast, *second[len(cast) :]], structure)


def _cast(expected: Any, found: Any) -> Any:
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return found
    if expected.shape != found.shape:
        return found
    if found.is_quantized:
        return torch.quantize_per_tensor(
            expected, found.q_scale(), found.q_zero_point(), found.dtype
        )
    return expected.to(found.dtype)


def _overwritten(graph: GraphModule) -> Iterator[Node]:
    """Nodes whose tensor a later op writes into."""
    for node in graph.graph.nodes:
        if node.args and isinstance(node.args[0], Node) and _writes_in_place(graph, node):
            yield node.args[0]


def _writes_in_place(graph: GraphModule, node: Node) -> bool:
    if node.op == "call_module":
        called = graph.get_submodule(str(node.target))
        first = next(called.children(), None) if isinstance(called, nn.Sequential) else called
        return bool(getattr(first, "inplace", False))
    if node.target in _IN_PLACE_FUNCTIONS or node.kwargs.get("inplace") is True:
        return True
    name = getattr(node.target, "__name__", str(node.target))
    return name.endswith("_") and not name.endswith("__")
