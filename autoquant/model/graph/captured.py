"""What a capture gives: the sites of a model in its float graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch.fx import GraphModule, Node

from autoquant.core.sites import Site
from autoquant.model.data.calling import Calling
from autoquant.model.graph.reach import Reach
from autoquant.model.graph.size_guards import SizeGuards

NOTHING_TO_CHOOSE = (
    "sites are convolutions, linear layers, embeddings, recurrent layers, attention, adds, "
    "muls, matmuls, cats, pools, norms and activations; see docs/sites.md"
)

BY_MODULES = (
    "captured module by module, {}; what lies between weighted modules stays in fp32, and there "
    "are no reference numerics."
)
"""A notice, with the reason."""

INPUT_OF = "@input"
"""After the name of a site in the key of the tensors that it reads, where there is no graph."""


class SiteCall(NamedTuple):
    """One call of a site.

    Attributes:
        site: The site.
        number: Which call of it, from 0.
        nodes: Names of the nodes that compute it: the root first, the last one its output.
    """

    site: Site
    number: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Capture:
    """What can be chosen in a model.

    Attributes:
        how: What captured it: `export` (a graph), `modules` (weighted modules alone).
        leaf_modules: Paths that are not looked into.
        graph: The float model as a graph, batch norms folded: tensors in, the model's own outputs
            out; where no graph was captured, one node that calls the whole model. Never run it in
            training mode, never change it.
        sites: In graph order.
        agreements: Sites that must take the same scheme: shared modules are one site already;
            here are pools, concatenations, activations and norms with the producers of their
            inputs.
        members: By site name, the nodes that compute it: the root first, the last one its output.
            A module that is called several times is several such groups. Where there is no
            graph, the site's own name stands for its one node.
        no_tensors: Names of the nodes that give no floating tensor.
        folded: By path of a layer, path of the batch norm that was folded into it.
        calling: How the model takes the tensors of its inputs.
        dynamic: By input tensor, the axes whose size may change.
        weights: Called without arguments, gives the graph's folded constants by their paths, from
            the parameters that the graph was made from; None where there is no graph.
        reach: How much of the model the sites hold.
        notices: What the user should know.
        guards: What the graph takes for granted of sizes; None where there is no graph.
    """

    how: str
    leaf_modules: tuple[str, ...]
    graph: GraphModule
    sites: tuple[Site, ...]
    agreements: tuple[tuple[str, ...], ...]
    members: Mapping[str, tuple[tuple[str, ...], ...]]
    no_tensors: frozenset[str]
    folded: Mapping[str, str]
    calling: Calling
    dynamic: tuple[tuple[int, ...], ...]
    weights: GraphModule | None = None
    reach: Reach | None = None
    notices: tuple[str, ...] = ()
    guards: SizeGuards | None = None

    def noting(self, notice: str) -> Capture:
        """The same, with something more that the user should know."""
        return replace(self, notices=(notice, *self.notices))

    @property
    def stored_count(self) -> int:
        """Elements of all constants that inference reads, shared ones once."""
        if self.reach is not None:
            return self.reach.stored_count
        return sum(item.numel() for item in self.graph.parameters())

    @property
    def float_bytes(self) -> int:
        """Bytes of these constants in fp32."""
        return 4 * self.stored_count

    def reads(self, site: str) -> tuple[str, ...]:
        """Keys of the first tensor that each call of a site reads, in graph order.

        They are keys of the calibration statistics where the tensor is a finite float.
        """
        if self.how == "modules":
            return (f"{site}{INPUT_OF}",)
        roots = (self.nodes[group[0]] for group in self.members[site])
        read = [
            [item.name for item in root.all_input_nodes if item.op != "get_attr"] for root in roots
        ]
        return tuple(names[0] for names in read if names)

    def writes(self, site: str) -> tuple[str, ...]:
        """Keys of the tensor that each call of a site writes, in graph order."""
        return tuple(group[-1] for group in self.members[site])

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """The graph's nodes by name, in execution order."""
        return {node.name: node for node in self.graph.graph.nodes}

    @cached_property
    def by_name(self) -> Mapping[str, Site]:
        """Sites by name."""
        return {site.name: site for site in self.sites}

    @cached_property
    def calls(self) -> tuple[SiteCall, ...]:
        """Every call of every site."""
        return tuple(
            SiteCall(self.by_name[name], number, nodes)
            for name, groups in self.members.items()
            for number, nodes in enumerate(groups)
        )

    @cached_property
    def roots(self) -> Mapping[str, Site]:
        """By node that reads what a site reads, the site."""
        return {call.nodes[0]: call.site for call in self.calls}

    @cached_property
    def lasts(self) -> Mapping[str, Site]:
        """By node that gives what a site gives, the site."""
        return {call.nodes[-1]: call.site for call in self.calls}

    @cached_property
    def site_of(self) -> Mapping[str, str]:
        """By node that helps to compute a site, the site."""
        return {node: call.site.name for call in self.calls for node in call.nodes}

    @cached_property
    def inner_nodes(self) -> frozenset[str]:
        """Names of the nodes within sites, whose values nothing outside reads."""
        return frozenset(node for call in self.calls for node in call.nodes[:-1])
