"""Whose time it is: the nodes of a built model by site, and by boundary between two sites."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import GraphModule, Node

from autoquant.backends.boundaries import Ends, Parts, add_up
from autoquant.backends.torch_cpu.stamps import NodeTimes
from autoquant.model.graph.built_graph import FLOAT_NODE
from autoquant.model.graph.capture import Capture
from autoquant.model.graph.owners import find_owners


def attribute(model: GraphModule, times: NodeTimes, captured: Capture) -> Parts:
    """Give each node's time to the site or the boundary that it belongs to.

    A node that the float graph has too belongs to its site. A node that conversion put in
    (quantize, dequantize, a cast, the scale that it reads) belongs to the boundary between the
    site that wrote the tensor and the one that reads it. Torch converts a tensor once for all
    readers of one format: the time is then divided evenly among their boundaries, so that an
    edge's cost is the average over what the other readers happen to need. Where one side is no
    site (the model's input or output, a pad), the time belongs to the site on the other side.
    """
    owner = find_owners(captured)
    known = {node.name for node in captured.graph.graph.nodes}
    inserted = {
        node
        for node in model.graph.nodes
        if node.op not in ("placeholder", "output") and _float_name(node) not in known
    }
    timed = (
        (times.nodes[node.name], _ends(node, inserted, owner))
        for node in model.graph.nodes
        if node.name in times.nodes
    )
    return add_up(timed, times.call)


def _float_name(node: Node) -> str:
    return str(node.meta.get(FLOAT_NODE, node.name))


def _ends(node: Node, inserted: set[Node], owner: Mapping[str, str]) -> list[Ends]:
    """Writer and reader of the tensor that a node converts; a site's own node is both."""
    if node not in inserted:
        site = owner.get(_float_name(node))
        return [(site, site)]
    source = node
    if node.op == "get_attr" and node.users:
        source = next(iter(node.users))  # a scale: it belongs to the quantize that reads it
    while source in inserted and source.all_input_nodes:
        source = source.all_input_nodes[0]
    writer = None if source in inserted else owner.get(_float_name(source))
    readers = dict.fromkeys(owner.get(_float_name(end)) for end in _readers(node, inserted))
    return [(writer, reader) for reader in readers] or [(writer, writer)]


def _readers(node: Node, inserted: set[Node]) -> list[Node]:
    """The nodes that take what a node gives, through further conversions; a size reads none."""
    found: list[Node] = []
    for user in node.users:
        if user.target is not torch.ops.aten.sym_size.int:
            found.extend(_readers(user, inserted) if user in inserted else [user])
    return found
