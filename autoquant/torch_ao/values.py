"""What every node of a graph gives on one example."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from autoquant.model.data.trees import copied
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.watched import Watched

_TOLERANCE = 1e-3
"""Of the largest value: batch norms are folded in one graph and not in the other."""


def node_values(graph: GraphModule, inputs: Sequence[Any]) -> dict[str, Any]:
    """Run a graph on copies and keep the value of every node as it was given, by name."""
    values: dict[str, Any] = {}

    def keep(node: Node, value: Any) -> None:
        values[node.name] = value.clone() if isinstance(value, Tensor) else value

    with torch.no_grad():
        Watched(graph, keep).run(*copied(inputs), enable_io_processing=False)
    return values


def placeholder_inputs(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Arguments of a model's forward as the placeholders of its traced graph take them."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    found: list[Any] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found.extend(value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            found.extend(value.values())
        else:
            found.append(value)
    return tuple(found)


def inputs_of(model: nn.Module, captured: Capture, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """The tensors of a batch as the placeholders of a model's traced graph take them."""
    args, kwargs = captured.calling.arguments(tensors)
    return placeholder_inputs(model, args, kwargs)


def varying_nodes(graph: GraphModule) -> set[Node]:
    """Nodes whose value depends on an input and is needed for the output."""
    varying: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or varying.intersection(node.all_input_nodes):
            varying.add(node)
    needed: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.op == "output" or needed.intersection(node.users):
            needed.add(node)
    return varying & needed


def is_same(first: object, second: object) -> bool:
    """Whether two tensors hold the same values, but for rounding."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    if first.shape != second.shape:
        return False
    if first is second or first.numel() == 0:
        return True
    a, b = first.detach().double(), second.detach().double()
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return False
    a, b = a[finite], b[finite]
    if not a.numel():
        return True
    bound = _TOLERANCE * float(a.abs().max()) + 1e-12
    return float((a - b).abs().max()) <= bound
