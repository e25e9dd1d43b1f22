"""Tensors that hold another tensor's values: its range is theirs."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from autoquant.model.graph.aten import op_name

RESHAPING = frozenset(
    {
        "_unsafe_view",
        "alias",
        "channel_shuffle",
        "clone",
        "contiguous",
        "expand",
        "flatten",
        "flip",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "repeat",
        "reshape",
        "roll",
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


def reshaped_sources(graph: GraphModule) -> dict[str, str]:
    """By name of a node that only moves values, name of the node that computed them."""
    return _sources(graph, RESHAPING)


def value_sources(graph: GraphModule) -> dict[str, str]:
    """By name of a node that only hands values on, all or some, name of what computed them.

    Rounding to one grid before such an op is rounding to it behind.
    """
    return _sources(graph, RESHAPING | _SELECTING)


def _sources(graph: GraphModule, ops: frozenset[str]) -> dict[str, str]:
    sources: dict[str, str] = {}
    for node in graph.graph.nodes:
        if op_name(node) in ops and isinstance(node.args[0], Node):
            before = node.args[0].name
            sources[node.name] = sources.get(before, before)
    return sources
