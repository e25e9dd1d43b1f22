"""Which tensor of a converted file holds which value of the captured graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from autoquant.backends.litert.operators import MOVED_INPUT, MOVES
from autoquant.backends.litert.schema import Array, Graph
from autoquant.backends.litert.session import observed_tensors
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import find_owners
from autoquant.model.graph.watched import Watched

_TOLERANCE = 1e-4
"""Of a statistic, relative to its size: two kernels' float32 sums differ by about 1e-6."""


@dataclass(frozen=True, slots=True, eq=False)
class Origins:
    """Where a converted file comes from.

    Attributes:
        nodes: By tensor, the captured node whose value it holds; tensors that only the converter
            knows are not in it.
        ends: By operator (its index), the captured node that it helps to compute.
        deciding: By such a node, the sites whose scheme its operators take: none where it is no
            site's and hands on no format, more than one where the converter merged them.
        computed: The same, without sites whose format is only handed on (by a mean, a reshape).
    """

    nodes: Mapping[int, str]
    ends: Mapping[int, str]
    deciding: Mapping[str, tuple[str, ...]]
    computed: Mapping[str, tuple[str, ...]]

    def sites_of(self, operator: int) -> tuple[str, ...]:
        """Sites whose scheme an operator takes."""
        return self.deciding.get(self.ends.get(operator, ""), ())

    def computed_by(self, operator: int) -> tuple[str, ...]:
        """Sites that an operator helps to compute."""
        return self.computed.get(self.ends.get(operator, ""), ())


def find_origins(
    content: bytes, graph: Graph, captured: Capture, inputs: tuple[Tensor, ...]
) -> Origins:
    """Run both on the same inputs, and pair the tensors whose values are the same.

    Names do not tell: the converter fuses, shares and renames. Values do, whatever the layout:
    tensors are compared by statistics that do not depend on the order of their elements. Where
    several nodes have equal values (a dropout, a reshape), operators take them in graph order,
    nodes that sites write first.
    """
    values = _fingerprints(captured, inputs)
    nodes = _pair(graph, values, captured.lasts.keys(), observed_tensors(content, inputs))
    ends = _ends(graph, nodes)
    deciding, computed = _sites(captured, nodes, ends)
    return Origins(nodes, ends, deciding, computed)


def _fingerprints(captured: Capture, inputs: tuple[Tensor, ...]) -> dict[str, Array]:
    """Run the captured graph and keep a fingerprint of each float tensor."""
    seen: dict[str, Array] = {}

    def keep(node: Node, value: object) -> None:
        if isinstance(value, Tensor) and value.is_floating_point() and node.op != "output":
            seen[node.name] = _fingerprint(value.detach().numpy())

    with torch.no_grad():
        Watched(captured.graph, keep).run(*inputs)
    return seen


def _fingerprint(values: Array) -> Array:
    """Statistics that do not depend on the order of the elements, and the scale of each."""
    flat = values.astype(np.float64).ravel()
    if flat.size == 0:
        return np.zeros((2, 1))
    low, high, size, squares = flat.min(), flat.max(), np.abs(flat), flat * flat
    largest, energy = max(-low, high), squares.sum()
    return np.array(
        [
            [flat.size, low, high, flat.sum(), energy, squares @ flat],
            [flat.size, largest, largest, size.sum(), energy, squares @ size],
        ]
    )


def _agree(first: Array, second: Array) -> bool:
    if first.shape != second.shape or first[0, 0] != second[0, 0]:
        return False
    scale = np.maximum(first[1], second[1])
    return bool((np.abs(first[0] - second[0]) <= _TOLERANCE * scale + 1e-30).all())


def _pair(
    graph: Graph,
    nodes: Mapping[str, Array],
    written: Collection[str],
    tensors: Iterator[tuple[int, Array]],
) -> dict[int, str]:
    """Claim a node for each tensor, in execution order."""
    prints = {index: _fingerprint(values) for index, values in tensors}
    placeholders = [name for name in nodes if name not in written]
    paired: dict[int, str] = {}
    claimed: set[str] = set()

    def claim(tensor: int, names: list[str]) -> None:
        found = [name for name in names if _agree(prints[tensor], nodes[name])]
        free = [name for name in found if name not in claimed] or found
        if free:
            best = min(free, key=lambda name: name not in written)
            paired[tensor] = best
            claimed.add(best)

    for tensor in graph.inputs:
        if tensor in prints:
            claim(tensor, placeholders)
    for operator in graph.operators:
        name = graph.op_name(operator)
        for tensor in graph.writes(operator):
            if tensor not in prints:
                continue
            if name in MOVES:
                source = paired.get(graph.reads(operator)[MOVED_INPUT.get(name, 0)])
                if source is not None and _agree(prints[tensor], nodes[source]):
                    paired[tensor] = source
                    continue
            claim(tensor, list(nodes))
    return paired


def _sites(
    captured: Capture, nodes: Mapping[int, str], ends: Mapping[int, str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Sites whose scheme the operators of each end take, and sites that they compute."""
    handed_on = find_owners(captured)
    site_of = captured.site_of
    known = frozenset(nodes.values())
    deciding, computed = {}, {}
    for end in dict.fromkeys(ends.values()):
        merged = [*_unseen_before(captured.nodes[end], known), end]
        sites = [site_of[node] for node in merged if node in site_of]
        computed[end] = tuple(dict.fromkeys(sites))
        last = handed_on.get(end)
        deciding[end] = tuple(dict.fromkeys([*sites, *([] if last is None else [last])]))
    return deciding, computed


def _unseen_before(node: Node, known: frozenset[str]) -> list[str]:
    """Nodes before one, as far back as no tensor holds their values; in graph order."""
    found: dict[str, None] = {}
    waiting = list(node.all_input_nodes)
    while waiting:
        before = waiting.pop()
        if before.name not in known and before.name not in found:
            found[before.name] = None
            waiting.extend(before.all_input_nodes)
    return list(reversed(found))


def _ends(graph: Graph, nodes: Mapping[int, str]) -> dict[int, str]:
    """An operator belongs to the captured node that its result, or its reader's, ends in."""
    ends: dict[int, str] = {}
    wanted: dict[int, str] = {}
    for index, operator in reversed(list(enumerate(graph.operators))):
        written = graph.writes(operator)
        found = [nodes.get(tensor) or wanted.get(tensor) for tensor in written]
        end = next((name for name in found if name is not None), None)
        if end is None:
            continue
        ends[index] = end
        for tensor in graph.reads(operator):
            if tensor not in nodes:
                wanted.setdefault(tensor, end)
    return ends
