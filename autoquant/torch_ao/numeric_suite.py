"""Pair the ops of a float graph with those of any quantized graph of the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.ao.ns.fx.graph_matcher import get_matching_subgraph_pairs
from torch.ao.ns.fx.mappings import get_base_name_to_sets_of_related_ops
from torch.ao.ns.fx.ns_types import NSSubgraph
from torch.fx import GraphModule, Node

from autoquant.errors import ModelError


@dataclass(frozen=True, slots=True)
class Match:
    """One op in both graphs, by node names.

    Attributes:
        expected: Nodes of the float graph, the root first, the output last.
        found: Nodes of the quantized graph, likewise.
    """

    expected: tuple[str, ...]
    found: tuple[str, ...]


def match_ops(expected: GraphModule, found: GraphModule) -> Sequence[Match]:
    """Pair the ops of two graphs in execution order, as torch's Numeric Suite does.

    Raises:
        ModelError: The graphs are not of one model.
    """
    try:
        pairs = get_matching_subgraph_pairs(expected, found, get_base_name_to_sets_of_related_ops())
    except Exception as error:
        raise ModelError(
            "the ops of the quantized model do not pair with those of the float model: "
            + " ".join(str(error).split()),
            hint="give the very model that it was made from, in eval mode",
        ) from error
    matches = [Match(_names(first), _names(second)) for first, second in pairs.values()]
    order = {node.name: index for index, node in enumerate(expected.graph.nodes)}
    return sorted(matches, key=lambda match: order[match.expected[-1]])


def _names(subgraph: NSSubgraph) -> tuple[str, ...]:
    """Nodes of a linear subgraph, the first one first."""
    names, node = [subgraph.end_node.name], subgraph.end_node
    while node is not subgraph.start_node and isinstance(node.args[0], Node):
        node = node.args[0]
        names.append(node.name)
    return tuple(reversed(names))
