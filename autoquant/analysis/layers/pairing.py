"""Which nodes of a quantized graph compute an op of the float graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.fx import GraphModule, Node

from autoquant.core.plan import Plan
from autoquant.core.precision import Mode, Scheme
from autoquant.core.sites import Site
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.conversion import FLOAT_NODE
from autoquant.model.torch_ao.fake_quantize import is_fake_quantize
from autoquant.model.torch_ao.matching import match_ops

_HALVES = (torch.float16, torch.bfloat16)


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


def pair_plan(captured: Capture, converted: GraphModule, plan: Plan) -> tuple[OpPair, ...]:
    """Pair the ops of a plan that autoquant built, in execution order.

    Conversion left the float node's name at every node that it made.
    """
    made: dict[str, list[Node]] = {}
    for node in converted.graph.nodes:
        if node.op not in ("get_attr", "placeholder", "output") and not _rounds(converted, node):
            made.setdefault(node.meta.get(FLOAT_NODE, ""), []).append(node)
    sites = {site.name: site for site in captured.sites}
    pairs = [
        replace(pair, scheme=_reader_scheme(captured, plan, pair.expected[0]))
        for pair in _input_pairs(captured.graph, converted)
    ]
    for name, groups in captured.members.items():
        for call, group in enumerate(groups):
            nodes = [item for member in group for item in made.get(member, [])]
            if not nodes:
                continue
            scheme = plan[name]
            rounding = _rounding_behind(converted, nodes[-1]) if _rounds_output(scheme) else ()
            found = tuple(item.name for item in nodes)
            pairs.append(OpPair(name, call, sites[name], scheme, group, found, rounding))
    return _in_order(captured.graph, pairs)


def pair_graphs(captured: Capture, quantized: GraphModule) -> tuple[OpPair, ...]:
    """Pair the ops of a model that torch quantized, in execution order.

    Raises:
        ModelError: The graphs are not of one model.
    """
    sites = {site.name: site for site in captured.sites}
    owner = {
        node: name
        for name, groups in captured.members.items()
        for group in groups
        for node in group
    }
    nodes = {node.name: node for node in quantized.graph.nodes}
    calls: Counter[str] = Counter()
    pairs = list(_input_pairs(captured.graph, quantized))
    for match in match_ops(captured.graph, quantized):
        name = owner.get(match.expected[0], match.expected[0])
        found = tuple(item for item in match.found if not _rounds(quantized, nodes[item]))
        rounding = _rounding_behind(quantized, nodes[found[-1]])
        pairs.append(
            OpPair(name, calls[name], sites.get(name), None, match.expected, found, rounding)
        )
        calls[name] += 1
    return _in_order(captured.graph, pairs)


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


def _in_order(graph: GraphModule, pairs: Iterable[OpPair]) -> tuple[OpPair, ...]:
    order = {node.name: index for index, node in enumerate(graph.graph.nodes)}
    return tuple(sorted(pairs, key=lambda pair: order[pair.expected[-1]]))


def _input_pairs(expected: GraphModule, found: GraphModule) -> Iterator[OpPair]:
    """The model's inputs, where the quantized model rounds them at once."""
    first, second = (
        [node for node in graph.graph.nodes if node.op == "placeholder"]
        for graph in (expected, found)
    )
    for given, taken in zip(first, second, strict=True):
        rounding = _rounding_behind(found, taken)
        if any(_rounds(found, item) for item in _named(found, rounding)):
            name = f"input {given.name}"
            yield OpPair(name, 0, None, None, (given.name,), (taken.name,), rounding)


def _reader_scheme(captured: Capture, plan: Plan, placeholder: str) -> Scheme | None:
    """Scheme of the first op that reads an input, for which the input is rounded."""
    roots = {group[0]: site for site, groups in captured.members.items() for group in groups}
    node = next(item for item in captured.graph.graph.nodes if item.name == placeholder)
    return next((plan[roots[user.name]] for user in node.users if user.name in roots), None)


def _named(graph: GraphModule, names: Sequence[str]) -> list[Node]:
    return [node for node in graph.graph.nodes if node.name in names]


def _rounds_output(scheme: Scheme) -> bool:
    return scheme is not Scheme.FP32 and scheme.mode is Mode.STATIC


def _rounding_behind(graph: GraphModule, node: Node) -> tuple[str, ...]:
    """Follow the nodes that round a tensor before anything else reads it."""
    names: list[str] = []
    while len(node.users) == 1:
        (node,) = node.users
        if not (_rounds(graph, node) or _turns(node)):
            break
        names.append(node.name)
    return tuple(names)


def _rounds(graph: GraphModule, node: Node) -> bool:
    if node.op == "call_module":
        return is_fake_quantize(graph.get_submodule(str(node.target)))
    if node.op == "call_method":
        return node.target == "to" and any(item in _HALVES for item in node.args[1:])
    return node.op == "call_function" and node.target is torch.quantize_per_tensor


def _turns(node: Node) -> bool:
    """Whether the node only changes the memory format."""
    return node.op == "call_method" and node.target == "to" and "memory_format" in node.kwargs
