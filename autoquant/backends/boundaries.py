"""Where the time of a plan goes: by site, and by boundary between two sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoquant.model.capture import Capture

Edge = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The time of one built plan, in milliseconds.

    Attributes:
        ops: By site.
        edges: By (writing site, reading site): what changes the format of the tensor between them.
        rest: Of no site.
    """

    ops: Mapping[str, float]
    edges: Mapping[Edge, float]
    rest: float


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


def find_owners(captured: Capture) -> dict[str, str]:
    """By float node, the site whose format it has."""
    return {item.node: item.site for item in captured.addresses if item.site is not None}
