"""Graphs within nodes (the body of a Loop, the branches of an If), and what they read outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx import AttributeProto, GraphProto, NodeProto


def read_by(node: NodeProto) -> tuple[str, ...]:
    """Tensors that a node reads: its inputs, and what its bodies read of the graph around them."""
    found = dict.fromkeys(node.input)
    rename_outer(node, lambda name: found.setdefault(name, None) or name)
    return tuple(found)


def rename_outer(node: NodeProto, name_of: Callable[[str], str]) -> None:
    """Rename, in place, what the bodies of a node read of the graph around them."""
    for body in _bodies(node):
        _rename(body, name_of, frozenset())


def _rename(body: GraphProto, name_of: Callable[[str], str], known: frozenset[str]) -> None:
    own = known.union(
        (item.name for item in body.input),
        (item.name for item in body.initializer),
        (name for node in body.node for name in node.output),
    )
    for node in body.node:
        for place, name in enumerate(node.input):
            if name and name not in own:
                node.input[place] = name_of(name)
        for inner in _bodies(node):
            _rename(inner, name_of, own)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
