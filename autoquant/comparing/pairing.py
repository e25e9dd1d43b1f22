"""Which nodes of a quantized graph compute an op of the float graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from autoquant.core.precision import Scheme
from autoquant.core.sites import Site


@dataclass(frozen=True, slots=True)
class OpPair:
    """One call of an op in both graphs, by node names.

    Attributes:
        op: Name of the site, or of the node where it is none; `input NAME` for a model's input.
        call: Which call of a shared module, from 0.
        site: None where it is none.
        scheme: What the plan chose; None: unknown.
        expected: Nodes of the float graph, the root first, the output last.
        found: Nodes of the quantized graph, likewise.
        rounding: Nodes behind its output that round it, in order.
    """

    op: str
    call: int
    site: Site | None
    scheme: Scheme | None
    expected: tuple[str, ...]
    found: tuple[str, ...]
    rounding: tuple[str, ...]

    @property
    def output(self) -> str:
        """Node of the quantized graph whose value readers see."""
        return (*self.found, *self.rounding)[-1]


def feeds_of(graph: GraphModule, pairs: Sequence[OpPair]) -> Mapping[str, tuple[OpPair, ...]]:
    """By output node of the float graph, the pairs whose tensors its op reads."""
    owner = {pair.expected[-1]: pair for pair in pairs}
    inner = {name: pair for pair in pairs for name in pair.expected}
    nodes = {node.name: node for node in graph.graph.nodes}
    return {
        pair.expected[-1]: tuple(
            dict.fromkeys(
                source
                for name in pair.expected
                for source in _sources(nodes[name], owner)
                if inner.get(source.expected[-1]) is not pair
            )
        )
        for pair in pairs
    }


def _sources(node: Node, owner: Mapping[str, OpPair]) -> Iterator[OpPair]:
    """The nearest pairs above a node."""
    seen: set[Node] = set()
    waiting = list(node.all_input_nodes)
    while waiting:
        source = waiting.pop(0)
        if source in seen:
            continue
        seen.add(source)
        if source.name in owner:
            yield owner[source.name]
        else:
            waiting.extend(source.all_input_nodes)
