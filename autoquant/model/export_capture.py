"""Capture by torch.export: the sites of a model that torch.fx cannot trace."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.passes.shape_prop import ShapeProp

from autoquant.core.sites import FOLLOWING_KINDS, Address, CallType, OpKind, Site
from autoquant.errors import ModelError
from autoquant.model.aten import (
    ATEN_KINDS,
    ATEN_OUTPUT_RANGES,
    PASS_THROUGH,
    RELU_TAKING_OPS,
    SHAPE_READING_OPS,
    op_name,
)
from autoquant.model.aten_graph import export_graph, fold_batch_norms, scope_of
from autoquant.model.captured import NOTHING_TO_CHOOSE, Capture
from autoquant.model.costs import macs_of, weight_count_of
from autoquant.model.float_model import paths_within
from autoquant.model.masks import MaskedNodes
from autoquant.model.node_shapes import is_float, shape_of
from autoquant.model.torch_ao.op_kinds import MODULE_KINDS
from autoquant.model.torch_ao.tracing import FloatGraph

_BATCH_NORM_DIMENSIONS = (4, 5)
"""torch has integer kernels for batch norms of images and volumes alone."""


def capture_export(
    model: nn.Module, example_inputs: tuple[Tensor, ...], leaf_modules: Sequence[str] = ()
) -> Capture:
    """Export a model and list its sites, named by the paths of its modules.

    Sites are those that torch.fx's capture would find: what a module computes is named by its
    path, what a forward calls by `path:function:index`. Dead code, checks and dropout are left
    out, and so is what reads constants alone (the embeddings of positions); batch norms are
    folded into the layer before them.

    Args:
        model: Float model; it is copied, never changed.
        example_inputs: One batch; its first dimension counts as samples.
        leaf_modules: Paths not to look into; what they hold stays in fp32.

    Raises:
        ModelError: The model cannot be exported or run on the example, or holds nothing to
            quantize.
    """
    modules = dict(model.named_modules())
    within = paths_within(modules, leaf_modules)
    graph = export_graph(model, example_inputs)
    folded = fold_batch_norms(graph, modules)
    shapes = _Shapes(graph)
    try:
        with torch.no_grad(), redirect_stderr(StringIO()):  # ShapeProp prints what it raises
            shapes.propagate(*example_inputs)
    except Exception as error:
        sizes = ", ".join(str(tuple(item.shape)) for item in example_inputs)
        raise ModelError(
            f"the exported model failed on the example inputs of shape {sizes}: "
            f"{error.__cause__ or error}",
            hint="give batches of the shape and dtype that model.forward takes",
        ) from error
    walk = _Walk(modules, within, shapes.masked.names, batch=len(example_inputs[0]))
    for node in graph.graph.nodes:
        walk.visit(node)
    if not walk.sites:
        raise ModelError(
            "the model has no op that a scheme could be chosen for", hint=NOTHING_TO_CHOOSE
        )
    scopes = {
        node.name: (scope_of(node), type(modules.get(scope_of(node), model)))
        for node in graph.graph.nodes
    }
    return Capture(
        leaf_modules=tuple(leaf_modules),
        traced=FloatGraph(module=graph, scopes=scopes, folded=folded, how="export"),
        sites=tuple(walk.sites.values()),
        addresses=tuple(walk.addresses),
        agreements=tuple(walk.agreements),
        members={
            name: tuple(tuple(group) for group in groups) for name, groups in walk.members.items()
        },
        no_tensors=frozenset(node.name for node in graph.graph.nodes if not is_float(node)),
    )


class _Shapes(ShapeProp):
    """Runs the graph on real inputs; notes shapes, and what masks fill."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.masked = MaskedNodes()

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            self.masked.take(n, value)
        return value


class _Walk:
    """One pass over the graph in execution order."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        within: Collection[str],
        masked: Collection[str],
        batch: int,
    ) -> None:
        self.modules = modules
        self.within = within
        self.masked = masked
        self.batch = batch
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self.varying: set[Node] = set()
        self.producer: dict[Node, str] = {}
        self.sites: dict[str, Site] = {}
        self.members: dict[str, list[list[str]]] = {}
        self.addresses: list[Address] = []
        self.agreements: list[tuple[str, ...]] = []

    def visit(self, node: Node) -> None:
        """Give the node its address, and make it a site where it is one."""
        if node.op == "placeholder":
            self.varying.add(node)
        if node.op != "call_function":
            return
        name, scope = op_name(node), scope_of(node)
        if name not in SHAPE_READING_OPS and self.varying.intersection(node.all_input_nodes):
            self.varying.add(node)
        index = self.calls[scope, name]
        self.calls[scope, name] += 1
        site = self._absorbing_site(node, name)
        is_module = False
        if site is None:
            kind = self._kind(node, name, scope)
            if kind is not None:
                is_module = self._is_module(scope, kind)
                site = self._add_site(node, kind, scope, None if is_module else index)
            elif is_float(node) and (name in PASS_THROUGH or node.target is operator.getitem):
                site = self._producer_of(node)
        if site is not None:
            self.producer[node] = site
        call = CallType.MODULE if is_module else CallType.FUNCTION
        target = "" if is_module else _qualified(node, name)
        self.addresses.append(
            Address(node.name, call, scope, target, 0 if is_module else index, site)
        )

    def _kind(self, node: Node, name: str, scope: str) -> OpKind | None:
        kind = ATEN_KINDS.get(name)
        if kind is None or not is_float(node) or scope in self.within:
            return None
        if node not in self.varying:  # engines compute it once, when they load the model
            return None
        read = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if any(item.name in self.masked for item in (node, *read)):
            return None
        if kind in (OpKind.ADD, OpKind.MUL, OpKind.MATMUL):
            operands = [arg for arg in node.args[:2] if isinstance(arg, Node)]
            if len(operands) < 2 or any(shape_of(arg) is None for arg in operands):
                return None
        dimensions = len(shape_of(node) or ())
        if name == "batch_norm" and dimensions not in _BATCH_NORM_DIMENSIONS:
            return None
        return kind

    def _is_module(self, scope: str, kind: OpKind) -> bool:
        return scope in self.modules and MODULE_KINDS.get(type(self.modules[scope])) is kind

    def _absorbing_site(self, node: Node, name: str) -> str | None:
        """The site that runs this relu as part of itself, if one does."""
        before = node.args[0] if name == "relu" else None
        if not isinstance(before, Node) or len(before.users) != 1:
            return None
        site = self.producer.get(before)
        if op_name(before) not in RELU_TAKING_OPS or site is None:
            return None
        self.members[site][-1].append(node.name)
        found = self.sites[site]
        if len(found.fused) == 1:
            self.sites[site] = replace(found, fused=(*found.fused, "ReLU"))
        return site

    def _producer_of(self, node: Node) -> str | None:
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        return self.producer.get(first) if first is not None else None

    def _add_site(self, node: Node, kind: OpKind, scope: str, index: int | None) -> str:
        name = scope if index is None else f"{scope}:{op_name(node)}:{index}"
        feeding: list[str] = []
        if kind in FOLLOWING_KINDS:
            feeding = [self.producer[n] for n in node.all_input_nodes if n in self.producer]
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
        module = self.modules[scope] if index is None else None
        inputs = tuple(
            shape
            for arg in node.all_input_nodes
            if arg.op != "get_attr" and (shape := shape_of(arg)) is not None
        )
        output = shape_of(node) or ()
        weight_count = weight_count_of(module) if module else _functional_weight(node, kind)
        return Site(
            name=name,
            kind=kind,
            module=scope,
            function=None if module else _qualified(node, op_name(node)),
            index=index,
            node=node.name,
            fused=(type(module).__name__ if module else op_name(node),),
            input_shapes=inputs,
            output_shape=output,
            macs=macs_of(kind, module, inputs, output, weight_count) // max(self.batch, 1),
            parameter_count=sum(p.numel() for p in module.parameters()) if module else weight_count,
            weight_count=weight_count,
            output_range=ATEN_OUTPUT_RANGES.get(op_name(node)),
            follows=follows,
        )


def _qualified(node: Node, name: str) -> str:
    return f"aten.{name}" if name else str(getattr(node.target, "__name__", node.target))


def _functional_weight(node: Node, kind: OpKind) -> int:
    """Elements of the weight that a functional conv or linear reads."""
    weight = node.args[1] if kind.is_weighted and len(node.args) > 1 else None
    if not isinstance(weight, Node) or weight.op != "get_attr":
        return 0
    shape = shape_of(weight)
    return int(torch.Size(shape).numel()) if shape else 0
