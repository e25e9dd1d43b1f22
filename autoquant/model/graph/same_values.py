"""Tensors that hold another tensor's values: its range is theirs."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from autoquant.model.graph.aten import RESHAPING, filling_of, op_name
from autoquant.model.graph.masks import LARGEST

_SELECTING = frozenset({"max_pool1d", "max_pool2d", "max_pool3d"})
"""Ops whose outputs are some of their inputs' values, and whose integer kernels keep the grid."""


def reshaped_sources(graph: GraphModule) -> dict[str, str]:
    """By name of a node that only moves values, name of the node that computed them."""
    return _sources(graph, RESHAPING)


def value_sources(graph: GraphModule) -> dict[str, str]:
    """By name of a node that only hands values on, all or some, name of what computed them.

    Rounding to one grid before such an op is rounding to it behind. What a pool never selects, as
    -inf around its input, is none of its values.
    """
    return _sources(graph, RESHAPING | _SELECTING)


def _sources(graph: GraphModule, ops: frozenset[str]) -> dict[str, str]:
    sources: dict[str, str] = {}
    for node in graph.graph.nodes:
        if op_name(node) in ops and isinstance(node.args[0], Node):
            read = node.args[0]
            before = (_unpadded(read) if op_name(node) in _SELECTING else read).name
            sources[node.name] = sources.get(before, before)
    return sources


def _unpadded(node: Node) -> Node:
    """The tensor around which a node puts -inf, or the lowest float; the node itself otherwise."""
    filling, source = filling_of(node), node.args[0] if node.args else None
    is_lowest = filling is not None and filling <= -LARGEST
    return source if is_lowest and isinstance(source, Node) else node
