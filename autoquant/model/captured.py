"""What a capture gives: the sites of a model in its float graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from autoquant.core.sites import Address, Site
from autoquant.model.torch_ao.tracing import FloatGraph

NOTHING_TO_CHOOSE = (
    "sites are convolutions, linear layers, embeddings, recurrent layers, adds, "
    "muls, matmuls, cats, pools, norms and activations; see docs/sites.md"
)

INPUT_OF = "@input"
"""After the name of a site in the key of the tensors that it reads, where there is no graph."""


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """What can be chosen in a model.

    Attributes:
        leaf_modules: Paths that are not traced into.
        traced: The traced, fused float model; never run it in training mode, never change it.
        sites: In graph order.
        addresses: One for every call of the graph, in graph order.
        agreements: Sites that must take the same scheme: shared modules are one site already;
            here are pools, concatenations, activations and norms with the producers of their
            inputs.
        members: By site name, the nodes that compute it: the root first, the last one its output.
            A module that is called several times is several such groups. Where there is no
            graph, the site's own name stands for its one node.
        no_tensors: Names of the nodes that give no floating tensor.
    """

    leaf_modules: tuple[str, ...]
    traced: FloatGraph
    sites: tuple[Site, ...]
    addresses: tuple[Address, ...]
    agreements: tuple[tuple[str, ...], ...]
    members: Mapping[str, tuple[tuple[str, ...], ...]]
    no_tensors: frozenset[str]

    @property
    def graph(self) -> GraphModule:
        """The traced float model, to run."""
        return self.traced.module

    def reads(self, site: str) -> tuple[str, ...]:
        """Keys of the first tensor that each call of a site reads, in graph order.

        They are keys of the calibration statistics where the tensor is a finite float.
        """
        if self.traced.how == "eager":
            return (f"{site}{INPUT_OF}",)
        nodes = {node.name: node for node in self.graph.graph.nodes}
        read = [
            [source.name for source in nodes[group[0]].all_input_nodes if source.op != "get_attr"]
            for group in self.members[site]
        ]
        return tuple(names[0] for names in read if names)

    def writes(self, site: str) -> tuple[str, ...]:
        """Keys of the tensor that each call of a site writes, in graph order."""
        return tuple(group[-1] for group in self.members[site])

    @property
    def inner_nodes(self) -> frozenset[str]:
        """Names of the nodes within sites, whose values nothing outside reads."""
        return frozenset(
            name for groups in self.members.values() for group in groups for name in group[:-1]
        )
