"""The calls of a graph of torch.fx, and how a QConfigMapping addresses each."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

from autoquant.torch_ao.tracing import FxModel

CALLS = frozenset({"call_module", "call_function", "call_method"})

RELUS: frozenset[object] = frozenset({nn.ReLU, F.relu, torch.relu, "relu", "relu_"})
"""What torch fuses with the op that it reads."""

_OPERATORS: Mapping[object, str] = {
    operator.add: "add",
    operator.iadd: "add",
    operator.mul: "mul",
    operator.imul: "mul",
    operator.matmul: "matmul",
    operator.imatmul: "matmul",
}

_ALIKE: Mapping[str, str] = {
    "_softmax": "softmax",
    "addmm": "matmul",
    "bmm": "matmul",
    "clamp": "hardtanh",
    "concat": "cat",
    "concatenate": "cat",
    "einsum": "matmul",
    "linear": "matmul",
    "max_pool2d_with_indices": "max_pool2d",
    "mm": "matmul",
    "multiply": "mul",
    "relu6": "hardtanh",
}
"""Names that one computation has, depending on who writes it down."""


@dataclass(frozen=True, slots=True)
class Call:
    """How a QConfigMapping reaches one call of the fused graph.

    A call of a module or a function has an order of its own; torch counts the calls of an object
    type within the module that makes them. Methods have none.

    Attributes:
        node: Name of the call in the graph.
        scope: Path of the module that makes the call.
        target: Class of the module, function, or name of the method.
        index: Which call of this target within the scope.
        module: Path of the module that is called; None for functions and methods.
    """

    node: str
    scope: str
    target: Callable[..., Any] | str
    index: int
    module: str | None = None

    @property
    def is_method(self) -> bool:
        """Whether it is a method, which torch cannot address by its order."""
        return isinstance(self.target, str)


def list_calls(traced: FxModel) -> Iterator[Call]:
    """All calls of the fused graph, in order, counted as `prepare_fx` counts them."""
    seen: dict[tuple[str, object], int] = defaultdict(int)
    for node in traced.fused.graph.nodes:
        if node.op not in CALLS:
            continue
        scope, kind = traced.scopes[node.name]
        if node.op == "call_module":
            # torch takes the module's own path for the scope of its call, and its class before
            # it was fused; both only here, where it counts
            owner = scope.rpartition(".")[0]
            target: Any = kind
            yield Call(node.name, owner, target, seen[owner, target], str(node.target))
            seen[owner, target] += 1
        elif node.op == "call_method":
            yield Call(node.name, scope, str(node.target), 0)
        else:
            target = node.target
            yield Call(node.name, scope, target, seen[scope, target])
            seen[scope, target] += 1


def op_of(node: Node, graph: GraphModule) -> object:
    """What is called: a module's class, a function, a method's name."""
    if node.op == "call_module":
        return type(graph.get_submodule(str(node.target)))
    return node.target


def short_name(node: Node, graph: GraphModule) -> str:
    """Name of what a call of torch.fx computes, as ATen's ops are named; one name for synonyms."""
    target = op_of(node, graph)
    if isinstance(target, type) and issubclass(target, nn.Module):
        return target.__name__
    found = _OPERATORS.get(target) or (
        target if isinstance(target, str) else getattr(target, "__name__", str(target))
    )
    return shared_name(str(found).strip("_"))


def shared_name(name: str) -> str:
    """One name for the synonyms of an ATen op."""
    return _ALIKE.get(name, name)
