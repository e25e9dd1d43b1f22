"""Nodes of torch.fx graphs that write into a tensor that they read."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from torch import nn
from torch.fx import GraphModule, Node

_IN_PLACE_FUNCTIONS = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv})


def in_place_nodes(module: GraphModule) -> Iterable[Node]:
    """Nodes that write into their first argument."""
    for node in module.graph.nodes:
        if node.op == "call_module":
            called = module.get_submodule(str(node.target))
            parts = list(called.children()) if isinstance(called, nn.Sequential) else [called]
            writes = getattr(parts[0], "inplace", False)
        elif node.op == "call_method":
            name = str(node.target)
            writes = name.endswith("_") and not name.endswith("__")
        else:
            name = getattr(node.target, "__name__", "")
            writes = node.op == "call_function" and (
                node.target in _IN_PLACE_FUNCTIONS
                or node.kwargs.get("inplace") is True
                or (name.endswith("_") and not name.endswith("__"))
            )
        if writes and node.args and isinstance(node.args[0], Node):
            yield node
