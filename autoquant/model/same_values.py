"""Tensors that hold another tensor's values: its range is theirs."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from autoquant.model.aten import op_name

RESHAPING = frozenset(
    {
        "alias",
        "clone",
        "contiguous",
        "expand",
        "flatten",
        "permute",
        "repeat",
        "reshape",
        "squeeze",
        "t",
        "transpose",
        "unflatten",
        "unsqueeze",
        "view",
    }
)
"""Ops that move values and change none."""

_SELECTING = frozenset({"max_pool1d", "max_pool2d", "max_pool3d"})
"""Ops whose outputs are some of their inputs' values, and whose integer kernels keep the grid."""


def value_sources(graph: GraphModule) -> dict[str, str]:
    """By name of a node that only hands values on, name of the node that computed them.

    Rounding to one grid before such an op is rounding to it behind.
    """
    sources: dict[str, str] = {}
    for node in graph.graph.nodes:
        if op_name(node) in RESHAPING | _SELECTING and isinstance(node.args[0], Node):
            before = node.args[0].name
            sources[node.name] = sources.get(before, before)
    return sources
