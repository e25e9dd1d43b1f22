"""Which axis of a tensor counts channels: behind a convolution the second, of tokens the last."""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import GraphModule, Node

from autoquant.model.graph.aten import CONVOLUTIONS, RECURRENT, op_name
from autoquant.model.graph.node_shapes import shape_of
from autoquant.model.graph.same_values import RESHAPING

SECOND, LAST = 1, -1

_OWN = dict.fromkeys({"linear", "embedding", "layer_norm", "rms_norm"} | RECURRENT, LAST)
_OWN |= dict.fromkeys({"batch_norm", "group_norm", "instance_norm"} | CONVOLUTIONS, SECOND)
"""Ops that say where channels are, in what they read and in what they give."""


def channel_axes(graph: GraphModule) -> dict[str, int]:
    """Give the axis by name of the node that gives a tensor.

    The op that writes a tensor says it, or else one that reads it; sums and activations hand on
    what their inputs or outputs have. It is the second where nothing says it.
    """
    axes = {node.name: _OWN[op_name(node)] for node in graph.graph.nodes if op_name(node) in _OWN}
    for node in graph.graph.nodes:
        _settle(axes, node, (source for source in node.all_input_nodes if _keeps(source, node)))
    for node in reversed(graph.graph.nodes):
        _settle(axes, node, (it for it in node.users if op_name(it) in _OWN or _keeps(node, it)))
    return {node.name: axes.get(node.name, SECOND) for node in graph.graph.nodes}


def _settle(axes: dict[str, int], node: Node, others: Iterable[Node]) -> None:
    known = [axes[other.name] for other in others if other.name in axes]
    if known:
        axes.setdefault(node.name, known[0])


def _keeps(source: Node, node: Node) -> bool:
    """Whether a node's axes are those of what it reads."""
    same_rank = len(shape_of(source) or ()) == len(shape_of(node) or ())
    return same_rank and op_name(node) not in RESHAPING
