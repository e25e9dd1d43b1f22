"""What a knob reaches in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import Graph, Node

from autoquant.core.space import Knob, SearchSpace
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import SiteNodes, mark_sites


@dataclass(frozen=True, eq=False, slots=True)
class MarkedGraph:
    """A captured graph with its sites and their knobs.

    Attributes:
        sites: Where they read and write.
        nodes: In execution order.
        last_reads: By node, what it is the last to read.
        knob_of: Knob names by site name.
    """

    sites: SiteNodes
    nodes: tuple[Node, ...]
    last_reads: Mapping[Node, tuple[Node, ...]]
    knob_of: Mapping[str, str]

    def reached(self, knob: Knob) -> tuple[Node, ...]:
        """Nodes whose value may change when the knob's scheme does, in execution order."""
        names = set(knob.sites)
        reached: dict[Node, None] = {}
        for node in self.nodes:
            own = (self.sites.roots.get(node), self.sites.lasts.get(node))
            if any(site is not None and site.name in names for site in own) or any(
                source in reached for source in node.all_input_nodes
            ):
                reached[node] = None
        return tuple(reached)


def mark(captured: Capture, space: SearchSpace) -> MarkedGraph:
    """Mark the sites and knobs of a captured model."""
    sites = mark_sites(captured)
    return MarkedGraph(
        sites=sites,
        nodes=sites.nodes,
        last_reads=_last_reads(sites.module.graph),
        knob_of={site: knob.name for knob in space.knobs for site in knob.sites},
    )


def _last_reads(graph: Graph) -> Mapping[Node, tuple[Node, ...]]:
    reads: dict[Node, tuple[Node, ...]] = {}
    seen: set[Node] = set()
    for node in reversed(graph.nodes):
        reads[node] = tuple(source for source in node.all_input_nodes if source not in seen)
        seen.update(node.all_input_nodes)
    return reads
