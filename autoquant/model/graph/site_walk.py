"""One pass over an exported graph: its sites, named by the modules that compute them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from autoquant.core.sites import FOLLOWING_KINDS, OpKind, Site
from autoquant.model.graph.aten import (
    ATEN_KINDS,
    ATEN_OUTPUT_RANGES,
    RECURRENT,
    RELU_TAKING_OPS,
    SHAPE_READING_OPS,
    hands_on,
    op_name,
)
from autoquant.model.graph.costs import macs_of
from autoquant.model.graph.node_shapes import is_float, shape_of
from autoquant.model.graph.scopes import call_of, scope_of
from autoquant.model.graph.tensor_paths import take

_BATCH_NORM_DIMENSIONS = (4, 5)
"""torch has integer kernels for batch norms of images and volumes alone."""

_OF_TWO_TENSORS = frozenset({OpKind.ADD, OpKind.MUL, OpKind.MATMUL})


class SiteWalk:
    """Finds the sites of a graph; call `visit` with each node in order.

    Args:
        graph: Functional, its constants folded, with shapes at its nodes.
        modules: Of the float model, by path.
        within: Paths that capture must not look into.
        masked: Names of nodes whose largest values a mask put there.
        batch: Samples of the example.
    """

    def __init__(
        self,
        graph: GraphModule,
        modules: Mapping[str, nn.Module],
        within: Collection[str],
        masked: Collection[str],
        batch: int,
    ) -> None:
        self.sites: dict[str, Site] = {}
        self.members: dict[str, list[list[str]]] = {}
        self.agreements: list[tuple[str, ...]] = []
        self._graph = graph
        self._modules = modules
        self._within = within
        self._masked = masked
        self._batch = max(batch, 1)
        self._calls: dict[tuple[str, str], int] = defaultdict(int)
        self._varying: set[Node] = set()
        self._producer: dict[Node, str] = {}
        self._owners: dict[int, str] = {}
        self._alone = _ops_by_call(graph)

    def visit(self, node: Node) -> None:
        """Make a node a site where it is one, or part of one."""
        if node.op == "placeholder":
            self._varying.add(node)
        if node.op != "call_function":
            return
        name, scope = op_name(node), scope_of(node)
        if name not in SHAPE_READING_OPS and self._varying.intersection(node.all_input_nodes):
            self._varying.add(node)
        index = self._calls[scope, name]
        self._calls[scope, name] += 1
        site = self._absorbing_site(node, name)
        if site is None:
            kind = self._kind(node, name, scope)
            if kind is not None:
                alone = self._is_module(node, kind, scope)
                site = self._add_site(node, kind, scope, None if alone else index)
            elif is_float(node) and hands_on(node):
                site = self._producer_of(node)
        if site is not None:
            self._producer[node] = site

    def _kind(self, node: Node, name: str, scope: str) -> OpKind | None:
        kind = ATEN_KINDS.get(name)
        if kind is None or not is_float(node) or scope in self._within:
            return None
        if node not in self._varying:  # engines compute it once, when they load the model
            return None
        if kind.is_weighted and not weights_of(node):
            return None
        read = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if any(item.name in self._masked for item in (node, *read)):
            return None
        if kind in _OF_TWO_TENSORS and len(_float_operands(node)) < 2:
            return None
        dimensions = len(shape_of(node) or ())
        if name == "batch_norm" and dimensions not in _BATCH_NORM_DIMENSIONS:
            return None
        return kind

    def _is_module(self, node: Node, kind: OpKind, scope: str) -> bool:
        """Whether an op is all that its module computes, so that the path alone names it."""
        module = self._modules.get(scope)
        if not scope or module is None:
            return False
        own = [name for name, _ in module.named_children() if name != "parametrizations"]
        is_torch = type(module).__module__.startswith("torch.nn.modules")
        if own or not (kind.is_weighted or is_torch):
            return False
        return self._alone[call_of(node), kind.is_weighted] == 1

    def _absorbing_site(self, node: Node, name: str) -> str | None:
        """The site that runs this relu as part of itself, if one does."""
        before = node.args[0] if name == "relu" else None
        if not isinstance(before, Node) or len(before.users) != 1:
            return None
        site = self._producer.get(before)
        if op_name(before) not in RELU_TAKING_OPS or site is None:
            return None
        self.members[site][-1].append(node.name)
        found = self.sites[site]
        if len(found.fused) == 1:
            self.sites[site] = replace(found, fused=(*found.fused, "ReLU"))
        return site

    def _producer_of(self, node: Node) -> str | None:
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        return self._producer.get(first) if first is not None else None

    def _add_site(self, node: Node, kind: OpKind, scope: str, index: int | None) -> str:
        name = scope if index is None else f"{scope}:{op_name(node)}:{index}"
        feeding: list[str] = []
        if kind in FOLLOWING_KINDS:
            feeding = [self._producer[n] for n in node.all_input_nodes if n in self._producer]
        self.members.setdefault(name, []).append([node.name])
        site = self._describe(node, name, kind, scope, index, feeding[0] if feeding else None)
        before = self.sites.get(name)
        self.sites[name] = site if before is None else replace(before, macs=before.macs + site.macs)
        if feeding:
            self.agreements.append((name, *dict.fromkeys(feeding)))
        return name

    def _describe(
        self,
        node: Node,
        name: str,
        kind: OpKind,
        scope: str,
        index: int | None,
        follows: str | None,
    ) -> Site:
        module = self._modules[scope] if index is None else None
        inputs = tuple(
            shape
            for arg in node.all_input_nodes
            if arg.op != "get_attr" and (shape := shape_of(arg)) is not None
        )
        output = shape_of(node) or ()
        weights = weights_of(node) if kind.is_weighted or kind is OpKind.NORM else ()
        counts = [_count(item) for item in weights]
        parameters = {arg for arg in node.all_input_nodes if arg.op == "get_attr" and is_float(arg)}
        return Site(
            name=name,
            kind=kind,
            module=scope,
            function=None if module is not None else f"aten.{op_name(node)}",
            index=index,
            node=node.name,
            fused=(type(module).__name__ if module is not None else op_name(node),),
            input_shapes=inputs,
            output_shape=output,
            macs=macs_of(kind, inputs, output, sum(counts)) // self._batch,
            parameter_count=sum(map(_count, parameters)),
            weight_count=sum(counts),
            output_range=ATEN_OUTPUT_RANGES.get(op_name(node)),
            follows=follows,
            shares=self._shared(name, weights) if kind.is_weighted else None,
        )

    def _shared(self, name: str, weights: Collection[Node]) -> str | None:
        """The earlier site that stores the weight of this one."""
        for node in weights:
            tensor: Tensor = take(self._graph, str(node.target))
            owner = self._owners.setdefault(tensor.untyped_storage().data_ptr(), name)
            if owner != name:
                return owner
        return None


def weights_of(node: Node) -> tuple[Node, ...]:
    """The constants that are the weights of an op, biases left out; none where it has none.

    For a recurrent op those of two dimensions, for others the one that it multiplies with.
    """
    name = op_name(node)
    if name in RECURRENT:
        read = [arg for arg in node.all_input_nodes if arg.op == "get_attr"]
        return tuple(arg for arg in read if len(shape_of(arg) or ()) == 2)
    place = {"embedding": 0, "embedding_bag": 0, "layer_norm": 2, "rms_norm": 2, "group_norm": 2}
    at = place.get(name, 1)
    weight = node.args[at] if len(node.args) > at else None
    return (weight,) if isinstance(weight, Node) and weight.op == "get_attr" else ()


def _ops_by_call(graph: GraphModule) -> Counter[tuple[str, bool]]:
    """How many ops that could be sites each call of a module makes, weighted ones apart."""
    found: Counter[tuple[str, bool]] = Counter()
    for node in graph.graph.nodes:
        kind = ATEN_KINDS.get(op_name(node))
        if kind is not None and node.op == "call_function":
            found[call_of(node), kind.is_weighted] += 1
    return found


def _float_operands(node: Node) -> list[Node]:
    return [arg for arg in node.all_input_nodes if shape_of(arg) is not None and is_float(arg)] + (
        [node] if _reads_itself_twice(node) else []
    )


def _reads_itself_twice(node: Node) -> bool:
    """Whether both operands are one tensor, as in x + x."""
    tensors = [arg for arg in node.args if isinstance(arg, Node)]
    return len(tensors) > len(set(tensors))


def _count(node: Node) -> int:
    return int(torch.Size(shape_of(node) or ()).numel())
