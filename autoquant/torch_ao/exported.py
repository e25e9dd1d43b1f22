"""A model of `convert_pt2e`, op by op beside the captured float model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from autoquant.comparing.pairing import OpPair
from autoquant.comparing.reference import type_of
from autoquant.comparing.runs import FloatWeight, Run, See, StoredWeight
from autoquant.core.findings.layers import TensorFormat
from autoquant.core.measurement import Kind
from autoquant.errors import ModelError
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.scopes import scope_of
from autoquant.model.graph.tensor_paths import take
from autoquant.torch_ao.quantized_run import QuantizedRun
from autoquant.torch_ao.stored_weights import stored_as

_LIBRARY = "quantized_decomposed"
_STATIC = ("quantize_per_tensor.default", "dequantize_per_tensor.default")


def is_exported(model: nn.Module) -> bool:
    """Whether it is a graph of `convert_pt2e`."""
    return isinstance(model, GraphModule) and any(map(_library_op, model.graph.nodes))


class ExportedQuantized:
    """What `convert_pt2e` made of a float model, paired with the captured graph of that model.

    Both graphs hold ATen ops: an op is paired with that of the same function in the same module,
    in their order. Where the modules of the two differ (a wrapper was exported), ops of the same
    function are paired in their order.

    Raises:
        ModelError: Neither modules nor order pair the ops with weights.
    """

    kind = Kind.EMULATED

    def __init__(self, captured: Capture, quantized: GraphModule) -> None:
        self._captured, self._graph = captured, quantized
        self._nodes = {node.name: node for node in self._graph.graph.nodes}
        self.notices: tuple[str, ...] = ()
        found = self._counterparts(by_module=True)
        if found is None:
            found = self._counterparts(by_module=False)
            self.notices = (
                "the ops of the quantized model are in other modules: those of one function were "
                "paired in their order",
            )
        if found is None:
            raise ModelError(
                "the ops of the quantized model do not pair with those of the float model",
                hint="give the very model that it was exported from, in eval mode",
            )
        self._pairs = tuple(self._list_pairs(found))

    def pairs(self) -> tuple[OpPair, ...]:
        """Its ops beside those of the captured graph, in execution order."""
        return self._pairs

    def start(self, see: See, *, feeds_float: bool) -> Run:
        """Make ready to run beside the captured graph."""
        run = QuantizedRun(self._graph, self._pairs, see, feeds_float=feeds_float)

        def beside(inputs: tuple[Tensor, ...], expected: Mapping[str, Any]) -> Any:
            arguments = self._captured.calling.arguments(inputs)
            return run.beside(pytree.tree_leaves(arguments), expected)

        return beside

    def type_of(self, pair: OpPair) -> str:
        """The functions of an op."""
        return type_of(self._graph, pair.found)

    def format_of(self, pair: OpPair, found: Tensor) -> TensorFormat:
        """How it keeps an op's tensor that was seen."""
        if not pair.rounding:
            return TensorFormat(str(found.dtype).removeprefix("torch."))
        given: Any = self._nodes[pair.rounding[0]].args
        scale, zero_point, low, high, dtype = given[1:6]
        low, high = ((limit - zero_point) * scale for limit in (low, high))
        name = str(dtype).removeprefix("torch.")
        return TensorFormat(name, scale, zero_point, low, high, 1)

    def stored(self, weight: FloatWeight) -> StoredWeight | None:
        """What the graph stores of a weight."""
        reads = self._nodes[weight.pair.found[0]].all_input_nodes
        stored = sorted(filter(_is_constant, reads), key=lambda node: node.op == "get_attr")
        types = op_name(weight.root), self.type_of(weight.pair).partition(" + ")[0]
        return stored_as(self._stored(stored[0]), types)  # what is dequantized, before a bias

    def _stored(self, node: Node) -> Tensor:
        """A weight as torch's quantized tensor, where it is dequantized, else as it is."""
        if node.op == "get_attr":
            return self._constant(node)
        given: list[Any] = [
            self._constant(item) if isinstance(item, Node) else item for item in node.args
        ]
        if "per_channel" in str(node.target):
            return torch._make_per_channel_quantized_tensor(*given[:4])
        return torch._make_per_tensor_quantized_tensor(*given[:3])

    def _constant(self, node: Node) -> Tensor:
        found: Tensor = take(self._graph, str(node.target))
        return found.detach()

    def _counterparts(self, *, by_module: bool) -> Mapping[str, str] | None:
        """By node of the captured graph, that of the quantized one; None: weighted ones lack it."""
        first = _keyed(self._captured.graph, by_module=by_module)
        second = _keyed(self._graph, by_module=by_module)
        found = {name: second[key] for key, name in first.items() if key in second}
        roots = self._captured.roots.items()
        is_whole = all(root in found for root, site in roots if site.kind.is_weighted)
        return found if is_whole else None

    def _list_pairs(self, counterparts: Mapping[str, str]) -> Iterator[OpPair]:
        calls = {call.nodes[-1]: call for call in self._captured.calls}
        for node in self._captured.graph.graph.nodes:
            if node.op == "placeholder" and node.name in counterparts:
                found = counterparts[node.name]
                rounding = self._rounding_behind(self._nodes[found])
                if rounding:
                    name = f"input {node.name}"
                    yield OpPair(name, 0, None, None, (node.name,), (found,), rounding)
            elif node.name in calls:
                site, call, group = calls[node.name]
                known = [name for name in group if name in counterparts]
                if known and known[0] == group[0]:
                    expected = group[: group.index(known[-1]) + 1]
                    names = tuple(counterparts[name] for name in known)
                    rounding = self._rounding_behind(self._nodes[names[-1]])
                    yield OpPair(site.name, call, site, None, expected, names, rounding)

    def _rounding_behind(self, node: Node) -> tuple[str, ...]:
        """The two nodes that round a tensor to its grid, where all that reads it reads that."""
        readers = list(node.users)
        if not readers or not all(_library_op(item) == _STATIC[0] for item in readers):
            return ()
        return readers[0].name, next(iter(readers[0].users)).name


def _keyed(graph: GraphModule, *, by_module: bool) -> dict[Hashable, str]:
    """By function, its module (if asked) and which call of it there, the node."""
    counts: Counter[Hashable] = Counter()
    found: dict[Hashable, str] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            key: Hashable = "input"
        elif node.op == "call_function" and not _library_op(node):
            key = (op_name(node).strip("_"), scope_of(node) if by_module else None)
        else:
            continue
        found[key, counts[key]] = node.name
        counts[key] += 1
    return found


def _library_op(node: Node) -> str:
    """Which op of the library that PT2E rounds with a node calls; empty: none."""
    library, _, name = str(node.target).partition(".")
    return name if node.op == "call_function" and library == _LIBRARY else ""


def _is_constant(node: Node) -> bool:
    return node.op == "get_attr" or (
        bool(_library_op(node)) and all(item.op == "get_attr" for item in node.all_input_nodes)
    )
