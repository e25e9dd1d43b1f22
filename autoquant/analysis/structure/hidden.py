"""Ops that no scheme reaches: inside what is not traced, or in a spelling torch does not know."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from autoquant.core.concerns import Concern, Topic, attention, note
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.op_kinds import MODULE_KINDS

_KNOWN_HOMES = ("torch", "_operator", "operator", "math", "builtins", "autoquant")
_SPELLINGS: Mapping[object, str] = {
    operator.iadd: "a + b",
    "add": "a + b",
    "add_": "a + b",
    operator.imul: "a * b",
    "mul": "a * b",
    "mul_": "a * b",
    torch.multiply: "a * b",
    operator.matmul: "torch.matmul(a, b)",
    operator.imatmul: "torch.matmul(a, b)",
    torch.bmm: "torch.matmul(a, b)",
    "matmul": "torch.matmul(a, b)",
    "bmm": "torch.matmul(a, b)",
    torch.concat: "torch.cat",
    torch.concatenate: "torch.cat",
}
"""Spellings of an op that torch's quantization does not know, and the one that it does."""


def find_hidden(captured: Capture) -> Iterator[Concern]:
    """Find the ops of a model that no plan can reach."""
    modules = dict(captured.graph.named_modules())
    seen: set[object] = set()
    for node in captured.graph.graph.nodes:
        if node.op == "call_module" and node.target not in seen:
            seen.add(node.target)
            yield from _inside(str(node.target), modules[str(node.target)], captured)
        elif node.op == "call_function" and node.target not in seen and _is_foreign(node.target):
            seen.add(node.target)
            yield _foreign(node)
    yield from _misspelled(captured)


def _inside(path: str, module: nn.Module, captured: Capture) -> Iterator[Concern]:
    """Quantizable modules inside one that is not traced."""
    if type(module) in MODULE_KINDS or isinstance(module, nn.Sequential):
        return
    inner = [name for name, item in module.named_modules() if name and _is_quantizable(item)]
    if not inner:
        return
    chosen = path in captured.leaf_modules
    make = note if chosen else attention
    yield make(
        Topic.FUSION,
        (path,),
        f"{type(module).__name__} is not traced into: {len(inner)} quantizable modules in it stay "
        f"fp32 ({', '.join(inner[:3])}{', ...' if len(inner) > 3 else ''})",
        "nothing inside can be fused or quantized",
        "take it out of leaf_modules, if torch.fx can trace it by now"
        if chosen
        else "write its forward with the modules inside, or quantize it by hand",
    )


def _is_quantizable(module: nn.Module) -> bool:
    """A weighted op of torch, or a class made from one."""
    weighted = tuple(kind for kind, op in MODULE_KINDS.items() if op.is_weighted)
    return isinstance(module, weighted)


def _is_foreign(function: object) -> bool:
    home = (getattr(function, "__module__", None) or "torch").partition(".")[0]
    return home not in _KNOWN_HOMES


def _foreign(node: Node) -> Concern:
    name = getattr(node.target, "__name__", str(node.target))
    return attention(
        Topic.FUSION,
        (node.name,),
        f"the function {name} is wrapped (torch.fx.wrap): what it computes stays fp32",
        "the tracer does not see the ops inside, so they are neither fused nor quantized",
        "unwrap it, if it has no control flow that depends on values",
    )


def _misspelled(captured: Capture) -> Iterator[Concern]:
    """Ops that would be sites if they were written in another way; one concern a spelling."""
    found: dict[object, list[str]] = {}
    for node in captured.graph.graph.nodes:
        if node.op not in ("call_function", "call_method") or node.target not in _SPELLINGS:
            continue
        operands = [
            item
            for item in pytree.tree_leaves(node.args)
            if isinstance(item, Node) and item.name not in captured.no_tensors
        ]
        if len(operands) > 1:
            found.setdefault(node.target, []).append(node.name)
    for target, names in found.items():
        method = isinstance(target, str)
        spelled = f"the method .{target}()" if method else getattr(target, "__name__", str(target))
        yield attention(
            Topic.FUSION,
            names,
            f"written as {spelled}, which torch's quantization does not know",
            "no scheme can be chosen: it stays fp32 and costs a conversion on each side",
            f"write it as {_SPELLINGS[target]}",
        )
