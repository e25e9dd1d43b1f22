"""The nodes of a captured graph where sites read, and what they read there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from autoquant.core.sites import OpKind, Site
from autoquant.model.graph.aten import RECURRENT, hands_on, op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.node_shapes import is_float
from autoquant.model.graph.site_walk import weights_of

_READ_FIRST = frozenset(
    {
        "batch_norm",
        "group_norm",
        "instance_norm",
        "layer_norm",
        "native_batch_norm_legit_no_training",
        "prelu",
        "rms_norm",
    }
)
"""Ops without weights in our sense whose other tensors are parameters."""


@dataclass(frozen=True, slots=True)
class Operands:
    """What the root of a site reads.

    Attributes:
        weights: Constants that schemes round as weights.
        reads: Tensors that schemes round as activations; a constant that is added is one.
        parameters: Other constants: biases, gains.
    """

    weights: tuple[Node, ...]
    reads: tuple[Node, ...]
    parameters: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SiteNodes:
    """A captured graph with its sites marked.

    Attributes:
        module: The graph.
        roots: By node, the site that reads there.
        lasts: By node, the site whose result it is.
        operands: Of each root.
    """

    module: GraphModule
    roots: Mapping[Node, Site]
    lasts: Mapping[Node, Site]
    operands: Mapping[Node, Operands]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In execution order."""
        return tuple(self.module.graph.nodes)


def mark_sites(captured: Capture) -> SiteNodes:
    """Mark the sites of a captured graph."""
    nodes = captured.nodes
    roots = {nodes[name]: site for name, site in captured.roots.items() if name in nodes}
    return SiteNodes(
        module=captured.graph,
        roots=roots,
        lasts={nodes[name]: site for name, site in captured.lasts.items() if name in nodes},
        operands={root: operands_of(root, site.kind) for root, site in roots.items()},
    )


def operands_of(node: Node, kind: OpKind) -> Operands:
    """Tell weights, activations and parameters of an op apart."""
    tensors = [source for source in node.all_input_nodes if is_float(source)]
    weights = weights_of(node) if kind.is_weighted else ()
    reads = tuple(source for source in _read(node, kind) if source in tensors)
    return Operands(
        weights=weights,
        reads=tuple(source for source in dict.fromkeys(reads) if source not in weights),
        parameters=tuple(
            source
            for source in tensors
            if source.op == "get_attr" and source not in weights and source not in reads
        ),
    )


def _read(node: Node, kind: OpKind) -> list[Node]:
    name = op_name(node)
    if kind in (OpKind.EMBEDDING, OpKind.EMBEDDING_BAG):
        return []
    if kind.is_weighted or name in _READ_FIRST or name in RECURRENT:
        places = node.args[:1]
    elif kind is OpKind.ATTENTION:  # its mask is none
        places = node.args[:3]
    else:
        return node.all_input_nodes
    return [item for item in places if isinstance(item, Node)]


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
