"""A model that torch quantized in FX mode, op by op beside the captured float model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.ns.fx.graph_matcher import get_matching_subgraph_pairs
from torch.ao.ns.fx.mappings import get_base_name_to_sets_of_related_ops
from torch.ao.ns.fx.ns_types import NSSubgraph
from torch.fx import GraphModule, Node

from autoquant.comparing.pairing import OpPair
from autoquant.comparing.runs import FloatWeight, Run, See, StoredWeight
from autoquant.core.findings.layers import TensorFormat
from autoquant.core.measurement import Kind
from autoquant.core.quiet import no_warnings
from autoquant.errors import ModelError
from autoquant.model.graph.captured import Capture, SiteCall
from autoquant.torch_ao.fake_quantize import frozen_copy, holds_fake_quantize, is_fake_quantize
from autoquant.torch_ao.formats import format_of, type_of
from autoquant.torch_ao.matching import Matched, match
from autoquant.torch_ao.quantized_run import QuantizedRun
from autoquant.torch_ao.stored_weights import stored_at
from autoquant.torch_ao.tracing import trace
from autoquant.torch_ao.values import inputs_of, is_same

_HALVES = (torch.float16, torch.bfloat16)


class TorchQuantized:
    """What torch made of a float model, paired with the captured graph of that model.

    The quantized graph is paired with torch.fx's graph of the float model as torch's Numeric Suite
    does, and that with the captured graph by what each call computes.

    Raises:
        ModelError: `quantized` only observes, or is not of this model; or torch.fx
            cannot trace the float model.
    """

    notices = ()

    def __init__(
        self,
        model: nn.Module,
        captured: Capture,
        quantized: GraphModule,
        example: tuple[Tensor, ...],
    ) -> None:
        with no_warnings():
            self._model, self._captured = model, captured
            self._graph = frozen_copy(quantized)
            traced = trace(model, captured.leaf_modules)
            self._traced = traced.fused
            matches = match_ops(self._traced, self._graph)
            found = match(model, captured, traced, example, self._inputs(example))
            self._paired = _Pairing(captured, found, self._graph).list_pairs(matches)

    @property
    def kind(self) -> Kind:
        """`emulated` where some of its roundings are simulated in float."""
        return Kind.EMULATED if holds_fake_quantize(self._graph) else Kind.MEASURED

    def pairs(self) -> tuple[OpPair, ...]:
        """Its ops beside those of the captured graph, in execution order."""
        return tuple(self._paired)

    def start(self, see: See, *, feeds_float: bool) -> Run:
        """Make ready to run beside the captured graph."""
        run = QuantizedRun(self._graph, self.pairs(), see, feeds_float=feeds_float)

        def beside(inputs: tuple[Tensor, ...], expected: Mapping[str, Any]) -> Any:
            with no_warnings():
                return run.beside(self._inputs(inputs), expected)

        return beside

    def type_of(self, pair: OpPair) -> str:
        """Class or function of an op: `ConvReLU2d (quantized)`."""
        return type_of(self._graph, pair.found)

    def format_of(self, pair: OpPair, found: Tensor) -> TensorFormat:
        """How it keeps an op's tensor that was seen."""
        last = _node(self._graph, pair.output)
        is_module = bool(pair.rounding) and last.op == "call_module"
        rounding = self._graph.get_submodule(str(last.target)) if is_module else None
        return format_of(found, rounding)

    def stored(self, weight: FloatWeight) -> StoredWeight | None:
        """What torch stores of a weight."""
        matched, kernel = self._paired[weight.pair], weight.pair.found[0]
        float_type = "" if matched is None else type_of(self._traced, matched.expected[:1])
        types = float_type, type_of(self._graph, (kernel,))
        return stored_at(self._graph, _node(self._graph, kernel), weight.name, types)

    def _inputs(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        return inputs_of(self._model, self._captured, tensors)


class _Pairing:
    """Finds the ops of the captured graph that the calls of a quantized graph compute."""

    def __init__(self, captured: Capture, matched: Matched, quantized: GraphModule) -> None:
        self._captured, self._matched, self._quantized = captured, matched, quantized
        self._nodes = {node.name: node for node in quantized.graph.nodes}
        self._order = {name: place for place, name in enumerate(captured.nodes)}
        self._calls = dict(_calls_of_sites(captured, matched))
        self._members = captured.site_of.keys()

    def list_pairs(self, matches: Sequence[Match]) -> dict[OpPair, Match | None]:
        """All pairs in execution order; where it is an op, with its call of torch.fx's graph."""
        found: dict[OpPair, Match | None] = dict.fromkeys(self._inputs())
        for item in matches:
            pair = self._pair(item)
            if pair is not None:
                found[pair] = item
        return dict(sorted(found.items(), key=lambda entry: self._order[entry[0].expected[-1]]))

    def _pair(self, item: Match) -> OpPair | None:
        """The pair of one call; None for a call that the captured graph has not."""
        found = tuple(name for name in item.found if not self._rounds(self._nodes[name]))
        rounding = self._rounding_behind(self._nodes[found[-1]])
        output = self._matched.tensors.get(item.expected[-1])
        call = next((self._calls[name] for name in item.expected if name in self._calls), None)
        if call is not None:
            site, index, group = call
            expected = self._up_to(group, output)
            return OpPair(site.name, index, site, None, expected, found, rounding)
        if output is None or output in self._members:  # it hands a site's tensor on
            return None
        return OpPair(output, 0, None, None, (output,), found, rounding)

    def _up_to(self, group: tuple[str, ...], output: str | None) -> tuple[str, ...]:
        """Nodes of a site's call, up to the tensor that torch's own pattern gives."""
        values = self._matched.values
        if output is None or is_same(values[output], values[group[-1]]):
            return group
        if output in group:
            return group[: group.index(output) + 1]
        return (*group, output)

    def _inputs(self) -> Iterator[OpPair]:
        """The model's inputs, where the quantized model rounds them at once."""
        for node in self._nodes.values():
            given = self._matched.tensors.get(node.name)
            if node.op != "placeholder" or given is None:
                continue
            rounding = self._rounding_behind(node)
            if any(self._rounds(self._nodes[item]) for item in rounding):
                yield OpPair(f"input {given}", 0, None, None, (given,), (node.name,), rounding)

    def _rounding_behind(self, node: Node) -> tuple[str, ...]:
        """Follow the nodes that round a tensor before anything else reads it."""
        names: list[str] = []
        while len(node.users) == 1:
            (node,) = node.users
            if not self._rounds(node):
                break
            names.append(node.name)
        return tuple(names)

    def _rounds(self, node: Node) -> bool:
        if node.op == "call_module":
            return is_fake_quantize(self._quantized.get_submodule(str(node.target)))
        if node.op == "call_method":
            return node.target == "to" and any(item in _HALVES for item in node.args[1:])
        return node.op == "call_function" and node.target is torch.quantize_per_tensor


def _calls_of_sites(captured: Capture, matched: Matched) -> Iterator[tuple[str, SiteCall]]:
    """By call of torch.fx's graph, the call of a site that it computes."""
    seen: Counter[str] = Counter()
    for call, name in matched.sites.items():  # the calls of one site in their order
        nodes = captured.members[name][seen[name]]
        yield call, SiteCall(captured.by_name[name], seen[name], nodes)
        seen[name] += 1


def _node(graph: GraphModule, name: str) -> Node:
    found: Node = next(node for node in graph.graph.nodes if node.name == name)
    return found


@dataclass(frozen=True, slots=True)
class Match:
    """One op in both graphs, by node names.

    Attributes:
        expected: Nodes of the float graph, the root first, the output last.
        found: Nodes of the quantized graph, likewise.
    """

    expected: tuple[str, ...]
    found: tuple[str, ...]


def match_ops(expected: GraphModule, found: GraphModule) -> Sequence[Match]:
    """Pair the ops of two graphs in execution order, as torch's Numeric Suite does."""
    try:
        pairs = get_matching_subgraph_pairs(expected, found, get_base_name_to_sets_of_related_ops())
    except Exception as error:
        raise ModelError(
            "the ops of the quantized model do not pair with those of the float model: "
            + " ".join(str(error).split()),
            hint="give the very model that it was made from, in eval mode",
        ) from error
    matches = [Match(_names(first), _names(second)) for first, second in pairs.values()]
    order = {node.name: index for index, node in enumerate(expected.graph.nodes)}
    return sorted(matches, key=lambda match: order[match.expected[-1]])


def _names(subgraph: NSSubgraph) -> tuple[str, ...]:
    """Nodes of a linear subgraph, the first one first."""
    names, node = [subgraph.end_node.name], subgraph.end_node
    while node is not subgraph.start_node and isinstance(node.args[0], Node):
        node = node.args[0]
        names.append(node.name)
    return tuple(reversed(names))
