"""Outputs that can be compared, and tensors to compare in the place of those that cannot.

Where a model returns class numbers (argmax, top-k, a sort), a tiny error either changes nothing
or swaps two indices: how far the outputs are apart says nothing about the ops. The tensor before
the ranking op says it. `with_comparable_outputs` changes what a captured graph returns, so that
everything that is built from the capture compares that tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.core.findings.concerns import Concern, Topic, attention, note
from autoquant.core.findings.structure import OutputFacts
from autoquant.model.data.trees import flatten_with_paths
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture

RANKING = frozenset(
    {
        *("argmax", "argmin", "argsort", "topk", "sort", "msort", "kthvalue", "nonzero"),
        *("max", "min", "mode", "median", "unique", "nms", "batched_nms", "multinomial"),
        *("bucketize", "searchsorted", "one_hot", "round", "sign", "gt", "ge", "lt", "le"),
    }
)
"""Names of ops that rank, select or threshold."""

_STEPS = frozenset(
    {
        *("getitem", "to", "_to_copy", "detach", "clone", "select", "slice"),
        *("squeeze", "unsqueeze", "flatten", "reshape", "view"),
    }
)
"""What may stand between a ranking op and the output."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparable:
    """A captured model whose outputs can be compared.

    Attributes:
        captured: As given, but its graph returns other tensors where a ranking op was last; node
            names and sites stay. Run `captured.graph` for the float side.
        outputs: What the model returned, and what is compared in its place.
        concerns: What the user should know.
    """

    captured: Capture
    outputs: tuple[OutputFacts, ...]
    concerns: tuple[Concern, ...]


def with_comparable_outputs(captured: Capture, inputs: tuple[Tensor, ...]) -> Comparable:
    """Replace ranked outputs by the tensors before them."""
    graph = captured.graph
    with torch.no_grad():
        returned = graph(*inputs)
    places = list(_places(graph, returned))
    facts = tuple(_describe(place, len(inputs[0]), captured) for place in places)
    concerns = tuple(_concerns(facts, places, len(inputs[0])))
    replaced = {
        place.node.name: fact.compared
        for place, fact in zip(places, facts, strict=True)
        if place.node is not None and fact.compared not in (None, place.node.name)
    }
    if replaced:
        captured = replace(captured, graph=_returning(graph, replaced))
    return Comparable(captured, facts, concerns)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """One leaf of the returned value."""

    path: str
    value: object
    node: Node | None
    ranked: Node | None


def _places(graph: GraphModule, returned: Any) -> Iterator[_Place]:
    """The leaves of the returned value, each with the node that gives it."""
    output = next(iter(reversed(graph.graph.nodes)))
    leaves = pytree.tree_leaves(output.args[0], is_leaf=lambda item: isinstance(item, Node))
    for (keys, value), leaf in zip(flatten_with_paths(returned)[0], leaves, strict=True):
        found = leaf if isinstance(leaf, Node) else None
        yield _Place(pytree.keystr(keys), value, found, _ranking(found))


def _ranking(node: Node | None) -> Node | None:
    """The last op that ranks, behind which only indexing and casts follow."""
    while node is not None and node.op == "call_function":
        name = _name(node)
        if name in RANKING and not _is_elementwise(node):
            return node
        if name not in _STEPS or not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return None


def _is_elementwise(node: Node) -> bool:
    """`torch.max(a, b)` of two tensors ranks nothing."""
    return _name(node) in ("max", "min") and len(node.all_input_nodes) > 1


def _name(node: Node) -> str:
    return op_name(node) or str(getattr(node.target, "__name__", node.target))


def _describe(place: _Place, samples: int, captured: Capture) -> OutputFacts:
    value = place.value
    if not isinstance(value, Tensor):
        return OutputFacts(place.path, type(value).__name__, (), None)
    compared: str | None = None
    if place.ranked is not None:
        before = place.ranked.all_input_nodes[0] if place.ranked.all_input_nodes else None
        if before is not None and before.name not in captured.no_tensors:
            compared = before.name
    elif value.is_floating_point() and value.ndim and len(value) == samples:
        compared = place.node.name if place.node is not None else None
    return OutputFacts(
        place.path, str(value.dtype).removeprefix("torch."), tuple(value.shape), compared
    )


def _concerns(
    facts: tuple[OutputFacts, ...], places: list[_Place], samples: int
) -> Iterator[Concern]:
    ranked: set[Node] = set()
    for fact, place in zip(facts, places, strict=True):
        where = (fact.path or "output",)
        if place.ranked is not None and fact.compared is not None:
            if place.ranked in ranked:
                continue  # values and indices of one top-k
            ranked.add(place.ranked)
            yield note(
                Topic.OUTPUTS,
                (*where, place.ranked.name),
                f"{_name(place.ranked)} is part of this output; {fact.compared}, the tensor "
                "before it, is compared in its place",
                "indices either agree or swap: their distance says nothing about any op",
                "return the scores as well and rank them outside the model; searches need that",
            )
        elif fact.compared is None:
            yield attention(
                Topic.OUTPUTS,
                where,
                f"cannot be compared: {_reason(fact, samples)}",
                "no error measure of this output can say how good a plan is",
                "return floats with one row for each sample (logits, scores, boxes)",
            )
    if facts and all(fact.compared is None for fact in facts):
        yield attention(
            Topic.OUTPUTS,
            ("output",),
            "no output can be compared",
            "sensitivity, comparison and search all measure the output error",
            "return at least one float tensor with one row for each sample",
        )


def _reason(fact: OutputFacts, samples: int) -> str:
    if not fact.shape and fact.dtype not in ("float32", "float64"):
        return f"it is a {fact.dtype}"
    if not fact.dtype.startswith(("float", "bfloat")):
        return f"it holds {fact.dtype}"
    return f"its shape {fact.shape} does not start with the {samples} samples of the batch"


def _returning(graph: GraphModule, replaced: Mapping[str, str | None]) -> GraphModule:
    """A graph that returns other nodes; it shares the weights, and nothing is removed from it."""
    shared = {id(item): item for item in (*graph.parameters(), *graph.buffers())}
    changed: GraphModule = copy.deepcopy(graph, shared)
    by_name = {node.name: node for node in changed.graph.nodes}
    output = next(iter(reversed(changed.graph.nodes)))
    # every use in the output, also one that indexes further (`topk(...)[1]` is a node of its own)
    output.args = (
        map_arg(output.args[0], lambda node: by_name[replaced.get(node.name) or node.name]),
    )
    changed.recompile()
    return changed
