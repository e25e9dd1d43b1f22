"""Where the time of a plan goes: by site, and by boundary between two sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import find_owners

Edge = tuple[str, str]
_Node = TypeVar("_Node")


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


@dataclass(frozen=True)  # with slots a generic one cannot be made on Python 3.10
class Surroundings(Generic[_Node]):
    """Finds the sites around a node of a built graph.

    Attributes:
        is_inserted: Whether conversion put a node in.
        site: Of any other node.
        source: The node that gives what a node reads; None: nothing does.
        users: Those that read what a node gives.
    """

    is_inserted: Callable[[_Node], bool]
    site: Callable[[_Node], str | None]
    source: Callable[[_Node], _Node | None]
    users: Callable[[_Node], Iterable[_Node]]

    def ends(self, node: _Node) -> list[Ends]:
        """Writer and readers of the tensor that a node converts; a site's own node is both."""
        if not self.is_inserted(node):
            site = self.site(node)
            return [(site, site)]
        source: _Node | None = node
        while source is not None and self.is_inserted(source):
            source = self.source(source)
        writer = None if source is None else self.site(source)
        readers = dict.fromkeys(map(self.site, self._readers(node)))
        return [(writer, reader) for reader in readers] or [(writer, writer)]

    def _readers(self, node: _Node) -> Iterator[_Node]:
        """The nodes that take what a node gives, through further conversions."""
        for user in self.users(node):
            if self.is_inserted(user):
                yield from self._readers(user)
            else:
                yield user


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
