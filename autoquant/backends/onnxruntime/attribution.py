"""Whose time it is: the nodes of an optimized model by site, and by boundary between two sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from onnx import ModelProto, NodeProto

from autoquant.backends.boundaries import Ends, Parts, add_up
from autoquant.backends.onnxruntime.readback import source_name
from autoquant.backends.onnxruntime.units import Unit


def attribute(
    model: ModelProto,
    times: Mapping[str, float],
    units: Iterable[Unit],
    passing: Mapping[str, str],
) -> Parts:
    """Give each node's time to the site or the boundary that it belongs to.

    A node of the float graph belongs to its site. What was put in (quantize, dequantize, a cast,
    a change of layout) belongs to the boundary between the site that wrote the tensor and those
    that read it, evenly among these; where one side is no site, to the site on the other side.
    """
    owner = {node.name: unit.site for unit in units for node in unit.nodes if unit.site}
    owner |= {name: site for name, site in passing.items() if name not in owner}
    graph = _Graph(model, owner)
    return add_up((times.get(node.name, 0.0), graph.ends(node)) for node in model.graph.node)


class _Graph:
    """Finds the sites around a node."""

    def __init__(self, model: ModelProto, owner: Mapping[str, str]) -> None:
        self._owner = owner
        self._writer = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def ends(self, node: NodeProto) -> list[Ends]:
        """Writer and readers of the tensor that a node converts; a site's own node is both."""
        site = self._site(node)
        if site is not None:
            return [(site, site)]
        writer = self._above(node)
        readers = dict.fromkeys(self._below(node))
        return [(writer, reader) for reader in readers] or [(writer, writer)]

    def _site(self, node: NodeProto) -> str | None:
        found = self._owner.get(source_name(node.name))
        return found or next(
            (self._owner[name] for name in map(source_name, node.output) if name in self._owner),
            None,
        )

    def _above(self, node: NodeProto) -> str | None:
        source = self._writer.get(node.input[0]) if node.input else None
        while source is not None and self._site(source) is None:
            source = self._writer.get(source.input[0]) if source.input else None
        return None if source is None else self._site(source)

    def _below(self, node: NodeProto) -> list[str]:
        found: list[str] = []
        for name in node.output:
            for reader in self._readers[name]:
                site = self._site(reader)
                found.extend(self._below(reader) if site is None else [site])
        return found
