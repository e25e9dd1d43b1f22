"""A captured graph whose outputs are the results of its sites."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen

from autoquant.core.sites import Site
from autoquant.model.data.calling import Calling
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.node_shapes import is_float
from autoquant.model.graph.site_nodes import SiteNodes


@dataclass(frozen=True, slots=True, eq=False)
class HandingOut:
    """A model that hands out what its sites compute.

    Attributes:
        captured: Tensors in, a tuple of tensors out; the same nodes, sites and weights.
        sites: The site of each tensor of the tuple, in order, by the node that gives it.
    """

    captured: Capture
    sites: Mapping[str, Site]


def hand_out(captured: Capture, marked: SiteNodes) -> HandingOut:
    """Let a captured model hand out what each of its sites computes, instead of its outputs."""
    sites = {node.name: site for last, site in marked.lasts.items() for node in _tensors(last)}
    graph = copy.deepcopy(captured.graph.graph)
    nodes = {node.name: node for node in graph.nodes}
    graph.set_codegen(CodeGen())
    graph.output_node().args = (tuple(nodes[name] for name in sites),)
    return HandingOut(
        captured=replace(
            captured,
            graph=GraphModule(captured.graph, graph),
            calling=Calling.plain(len(captured.calling.names)),
        ),
        sites=sites,
    )


def _tensors(last: Node) -> list[Node]:
    """The node that gives a site's result; those that take its parts where there are several."""
    parts = [user for user in last.users if user.target is operator.getitem]
    return [node for node in parts or [last] if is_float(node)]
