"""Whose format each tensor of a captured graph has."""

from __future__ import annotations

from autoquant.model.graph.aten import hands_on
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.node_shapes import is_float


def find_owners(captured: Capture) -> dict[str, str]:
    """By node, the site that it helps to compute, or whose output it hands on as it is."""
    owners = dict(captured.site_of)
    for node in captured.graph.graph.nodes:
        sources = node.all_input_nodes
        if node.name not in owners and sources and is_float(node) and hands_on(node):
            owner = owners.get(sources[0].name)
            if owner is not None:
                owners[node.name] = owner
    return owners
