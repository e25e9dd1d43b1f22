"""Whose time it is: the nodes of a runtime graph by site, and by boundary between two sites."""

from __future__ import annotations

from collections.abc import Mapping

import openvino as ov

from autoquant.backends.boundaries import Ends, Parts, add_up
from autoquant.backends.openvino.readback import ExecutionGraph


def attribute(graph: ExecutionGraph, times: Mapping[str, float], rest_ms: float) -> Parts:
    """Give each node's time to the site or the boundary that it belongs to.

    A kernel belongs to the first of the sites that it computes; what it absorbed costs nothing
    of its own. A node that no op of the float graph gave its name (a quantizer, a reordering, a
    conversion) belongs to the boundary between the site that wrote the tensor and those that
    read it, evenly. Where one side is no site, the time belongs to the other.
    """
    timed = ((times.get(node.get_friendly_name(), 0.0), node) for node in graph.nodes)
    return add_up(((ms, _ends(graph, node)) for ms, node in timed if ms > 0.0), rest_ms)


def _ends(graph: ExecutionGraph, node: ov.Node) -> list[Ends]:
    """Writer and readers of the tensor that a node converts; a site's own node is both."""
    if not graph.is_inserted(node):
        site = graph.owner(node)
        return [(site, site)]
    source = node
    while graph.is_inserted(source) and source.get_input_size():
        source = source.input_value(0).get_node()
    writer = graph.owner(source)
    readers = dict.fromkeys(graph.owner(item) for item in _readers(graph, node))
    return [(writer, reader) for reader in readers] or [(writer, writer)]


def _readers(graph: ExecutionGraph, node: ov.Node) -> list[ov.Node]:
    """The nodes that take what a node gives, through further conversions."""
    found: list[ov.Node] = []
    for output in node.outputs():
        for target in output.get_target_inputs():
            user = target.get_node()
            found.extend(_readers(graph, user) if graph.is_inserted(user) else [user])
    return found
