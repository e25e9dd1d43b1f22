"""The sizes that tensors have at the batch that is timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.model.graph.node_shapes import shape_of


class TimedSizes:
    """Gives the sizes of a graph's tensors on given inputs, without running it."""

    def __init__(self, graph: GraphModule, inputs: Sequence[Tensor]) -> None:
        self._symbols: dict[Any, int] = {}
        places = (node for node in graph.graph.nodes if node.op == "placeholder")
        for node, tensor in zip(places, inputs, strict=True):
            for size, number in zip(_sizes(node), tensor.shape, strict=True):
                if not isinstance(size, int):
                    self._symbols[size.node.expr] = number

    def of(self, node: Node) -> tuple[int, ...]:
        """Sizes of the tensor that a node gives; those at export where they depend on values."""
        found = [self._number(size) for size in _sizes(node)]
        known = tuple(item for item in found if item is not None)
        return known if found and len(known) == len(found) else shape_of(node) or ()

    def _number(self, size: Any) -> int | None:
        if isinstance(size, int):
            return size
        found = size.node.expr.subs(self._symbols)
        return int(found) if found.is_number else None


def _sizes(node: Node) -> tuple[Any, ...]:
    return tuple(getattr(node.meta.get("val"), "shape", ()))
