"""A graph that shows what its nodes give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import GraphModule, Interpreter, Node


class Watched(Interpreter):
    """Runs a graph node by node, and shows `see` each node with what it gives."""

    def __init__(self, graph: GraphModule, see: Callable[[Node, Any], None]) -> None:
        super().__init__(graph)
        self._see = see

    def run_node(self, n: Node) -> Any:
        """Run one node, and show it."""
        value = super().run_node(n)
        self._see(n, value)
        return value
