"""Where the time of a plan goes: by site, and by boundary between two sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import find_owners

Edge = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The time of one built plan, in one unit.

    Attributes:
        ops: By site.
        edges: By (writing site, reading site): what changes the format of the tensor between them.
        rest: Of no site.
    """

    ops: Mapping[str, float]
    edges: Mapping[Edge, float]
    rest: float

    @property
    def total(self) -> float:
        """Of the whole plan."""
        return self.rest + sum(self.ops.values()) + sum(self.edges.values())

    def times(self, factor: float) -> Parts:
        """The same in another unit."""
        ops = {site: factor * time for site, time in self.ops.items()}
        edges = {edge: factor * time for edge, time in self.edges.items()}
        return Parts(ops, edges, factor * self.rest)


Ends = tuple[str | None, str | None]
"""Writer and reader of the tensor that a node converts; of a site's own node, the site twice."""


def add_up(timed: Iterable[tuple[float, Sequence[Ends]]], rest: float = 0.0) -> Parts:
    """Add up the times of nodes by site and boundary.

    Args:
        timed: Of each node its time and its ends; several readers share its time evenly.
            Where one end is no site, the time belongs to the other.
        rest: What a call takes beside its nodes.
    """
    ops: dict[str, float] = defaultdict(float)
    edges: dict[Edge, float] = defaultdict(float)
    for time, ends in timed:
        for writer, reader in ends:
            share = time / len(ends)
            site = writer or reader
            if site is None:
                rest += share
            elif writer is None or reader is None or writer == reader:
                ops[site] += share
            else:
                edges[writer, reader] += share
    return Parts(dict(ops), dict(edges), rest)


def find_edges(captured: Capture) -> tuple[Edge, ...]:
    """List the boundaries of a model: each site with the sites whose tensors it reads.

    A tensor that passes through ops which hand its format on (flatten, reshape) still comes from
    the site that wrote it. Inputs of the model, and tensors of ops that are no site, come from
    no site: they are always fp32, so what it costs to read them belongs to the reader.
    """
    owner = find_owners(captured)
    found: dict[Edge, None] = {}
    for node in captured.graph.graph.nodes:
        reader = owner.get(node.name)
        for source in node.all_input_nodes:
            writer = owner.get(source.name)
            if reader is not None and writer is not None and reader != writer:
                found[writer, reader] = None
    return tuple(found)
