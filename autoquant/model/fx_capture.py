"""Capture by torch.fx: the sites of a model in its traced, fused float graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import _get_qualified_name
from torch.fx.passes.shape_prop import ShapeProp

from autoquant.core.sites import FOLLOWING_KINDS, Address, CallType, OpKind, Site
from autoquant.errors import ModelError
from autoquant.model.calling import Calling
from autoquant.model.captured import NOTHING_TO_CHOOSE, Capture
from autoquant.model.costs import macs_of, weight_count_of
from autoquant.model.node_shapes import is_float, shape_of
from autoquant.model.torch_ao.backend_config import pass_through_ops
from autoquant.model.torch_ao.op_kinds import (
    FUNCTION_KINDS,
    MODULE_KINDS,
    OUTPUT_RANGES,
    RELU_AFTER,
    RELU_TAKERS,
)
from autoquant.model.torch_ao.tracing import trace_float

_FUNCTIONAL_CONVOLUTIONS = frozenset({F.conv1d, F.conv2d, F.conv3d})

_CALLS = {
    "call_module": CallType.MODULE,
    "call_function": CallType.FUNCTION,
    "call_method": CallType.METHOD,
}


def capture_fx(
    model: nn.Module, example_inputs: tuple[Tensor, ...], leaf_modules: Sequence[str] = ()
) -> Capture:
    """Trace a model and list its sites, with shapes, MACs and parameters.

    Args:
        model: Float model; it is copied, never changed.
        example_inputs: One batch; its first dimension counts as samples.
        leaf_modules: Paths not to trace into.

    Raises:
        ModelError: The model cannot be traced or run on the example, or holds nothing to quantize.
    """
    traced = trace_float(model, leaf_modules)
    graph = traced.module
    try:
        with torch.no_grad(), redirect_stderr(StringIO()):  # ShapeProp prints what it raises
            ShapeProp(graph).propagate(*example_inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(item.shape)) for item in example_inputs)
        raise ModelError(
            f"the model failed on the example inputs of shape {shapes}: {error.__cause__ or error}",
            hint="give batches of the shape and dtype that model.forward takes",
        ) from error
    walk = _Walk(graph, traced.scopes, batch=len(example_inputs[0]))
    for node in graph.graph.nodes:
        walk.visit(node)
    if not walk.sites:
        raise ModelError(
            "the model has no op that a scheme could be chosen for",
            hint=NOTHING_TO_CHOOSE,
        )
    return Capture(
        leaf_modules=tuple(leaf_modules),
        traced=traced,
        sites=tuple(walk.sites.values()),
        agreements=tuple(walk.agreements),
        members={
            name: tuple(tuple(group) for group in groups) for name, groups in walk.members.items()
        },
        no_tensors=frozenset(node.name for node in graph.graph.nodes if not is_float(node)),
        calling=Calling.plain(len(example_inputs)),
        dynamic=tuple((0,) for _ in example_inputs),
        addresses=tuple(walk.addresses),
    )


class _Walk:
    """One pass over the graph in execution order."""

    def __init__(
        self, graph: GraphModule, scopes: Mapping[str, tuple[str, type]], batch: int
    ) -> None:
        self.modules = dict(graph.named_modules())
        self.scopes = scopes
        self.batch = batch
        self.pass_through = pass_through_ops()
        self.calls: dict[tuple[str, object], int] = defaultdict(int)
        self.producer: dict[Node, str] = {}
        self.sites: dict[str, Site] = {}
        self.members: dict[str, list[list[str]]] = {}
        self.addresses: list[Address] = []
        self.agreements: list[tuple[str, ...]] = []

    def visit(self, node: Node) -> None:
        """Give the node its address, and make it a site where it is one."""
        if node.op not in _CALLS:
            return
        scope, target, index = self._locate(node)
        site = self._absorbing_site(node)
        if site is None:
            kind = self._kind(node)
            if kind is not None:
                site = self._add_site(node, kind, scope, target, index)
            elif self._op(node) in self.pass_through:
                site = self._producer_of(node)
        if site is not None:
            self.producer[node] = site
        self.addresses.append(Address(node.name, _CALLS[node.op], scope, target, index, site))

    def _locate(self, node: Node) -> tuple[str, str, int]:
        """Scope, target and index, counted as torch's qconfig mapping counts them."""
        if node.op == "call_module":
            return str(node.target), "", 0
        scope, _ = self.scopes[node.name]
        if node.op == "call_method":
            return scope, str(node.target), 0
        index = self.calls[scope, node.target]
        self.calls[scope, node.target] += 1
        return scope, _get_qualified_name(node.target), index  # type: ignore[arg-type]

    def _op(self, node: Node) -> object:
        """What is called: a module's class, a function, a method's name."""
        if node.op == "call_module":
            return type(self.modules[str(node.target)])
        return node.target

    def _kind(self, node: Node) -> OpKind | None:
        if node.op == "call_module":
            return MODULE_KINDS.get(type(self.modules[str(node.target)]))
        if node.op == "call_method" or not callable(node.target):
            return None
        kind = FUNCTION_KINDS.get(node.target)
        if kind in (OpKind.ADD, OpKind.MUL, OpKind.MATMUL):
            operands = [arg for arg in node.args[:2] if isinstance(arg, Node)]
            if len(operands) < 2 or any(shape_of(arg) is None for arg in operands):
                return None
        if node.target in _FUNCTIONAL_CONVOLUTIONS and not _can_be_packed(node):
            return None
        return kind

    def _absorbing_site(self, node: Node) -> str | None:
        """The site that runs this relu as part of itself, if one does."""
        if self._op(node) not in RELU_AFTER or not node.args:
            return None
        before = node.args[0]
        if not isinstance(before, Node) or len(before.users) != 1:
            return None
        if before.op != "call_function" or before.target not in RELU_TAKERS:
            return None
        name = self.producer.get(before)
        if name is not None:
            self.members[name][-1].append(node.name)
        return name

    def _producer_of(self, node: Node) -> str | None:
        """The site whose format a pass-through op hands on."""
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        return self.producer.get(first) if first is not None else None

    def _add_site(self, node: Node, kind: OpKind, scope: str, target: str, index: int) -> str:
        is_module = node.op == "call_module"
        short = target.rpartition(".")[2]
        name = scope if is_module else f"{scope}:{short}:{index}"
        if name in self.sites and not is_module:
            name = f"{scope}:{target}:{index}"
        feeding: list[str] = []
        if kind in FOLLOWING_KINDS:
            feeding = [self.producer[n] for n in node.all_input_nodes if n in self.producer]
        self.members.setdefault(name, []).append([node.name])
        follows = feeding[0] if feeding else None
        site = self._describe(node, name, kind, scope, target, index, follows)
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
        target: str,
        index: int,
        follows: str | None,
    ) -> Site:
        is_module = node.op == "call_module"
        module = self.modules[scope] if is_module else None
        inputs = tuple(
            shape for arg in node.all_input_nodes if (shape := shape_of(arg)) is not None
        )
        output = shape_of(node) or ()
        weight_count = weight_count_of(module) if module else _functional_weight(node)
        return Site(
            name=name,
            kind=kind,
            module=scope,
            function=None if is_module else target,
            index=None if is_module else index,
            node=node.name,
            fused=_fused_names(node, module),
            input_shapes=inputs,
            output_shape=output,
            macs=macs_of(kind, inputs, output, weight_count) // max(self.batch, 1),
            parameter_count=sum(p.numel() for p in module.parameters()) if module else weight_count,
            weight_count=weight_count,
            output_range=OUTPUT_RANGES.get(self._op(node)),
            follows=follows,
        )


def _can_be_packed(node: Node) -> bool:
    """Whether torch can pack a functional convolution: all arguments by position, in tuples."""
    geometry = node.args[3:6]
    return len(node.args) == 7 and all(isinstance(item, (tuple, list)) for item in geometry)


def _functional_weight(node: Node) -> int:
    """Elements of the weight that a functional conv or linear reads."""
    if len(node.args) < 2 or not isinstance(node.args[1], Node) or node.args[1].op != "get_attr":
        return 0
    shape = shape_of(node.args[1])
    return int(torch.Size(shape).numel()) if shape else 0


def _fused_names(node: Node, module: nn.Module | None) -> tuple[str, ...]:
    if module is None:
        return (_get_qualified_name(node.target).rpartition(".")[2],)  # type: ignore[arg-type]
    parts = list(module.children()) if isinstance(module, nn.Sequential) else [module]
    return tuple(type(part).__name__ for part in parts)
