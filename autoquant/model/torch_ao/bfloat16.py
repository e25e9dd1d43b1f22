"""bf16: a cast of the op and of its inputs, on the graph between prepare and lowering."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch.fx import GraphModule, Node


def cast_to_bfloat16(
    model: GraphModule, groups: Iterable[tuple[str, ...]], no_tensors: frozenset[str]
) -> None:
    """Make groups of nodes compute in bf16, in place.

    Args:
        model: A graph of float modules and quantize / dequantize calls.
        groups: Names of the nodes that run as one op: the root first, its output last.
        no_tensors: Names of the nodes that give no floating tensor.
    """
    nodes = {node.name: node for node in model.graph.nodes}
    for names in groups:
        root, last = nodes[names[0]], nodes[names[-1]]
        _cast_inputs(model, root, no_tensors)
        for name in names:
            if nodes[name].op == "call_module":
                path = str(nodes[name].target)
                module = copy.deepcopy(model.get_submodule(path))
                model.set_submodule(path, module.to(torch.bfloat16))
        users = list(last.users)
        with model.graph.inserting_after(last):
            back = model.graph.call_method("to", (last, torch.float32))
        for user in users:
            user.replace_input_with(last, back)
    _drop_round_trips(model)
    model.graph.lint()
    model.recompile()


def _cast_inputs(model: GraphModule, root: Node, no_tensors: frozenset[str]) -> None:
    for source in root.all_input_nodes:
        if source.name not in no_tensors:
            with model.graph.inserting_before(root):
                cast = model.graph.call_method("to", (source, torch.bfloat16))
            root.replace_input_with(source, cast)


def _drop_round_trips(model: GraphModule) -> None:
    """bf16 -> fp32 -> bf16 is exact: let the second op read the first one's bf16 directly."""
    for node in list(model.graph.nodes):
        source = node.args[0] if node.args else None
        if _is_cast(node, torch.bfloat16) and _is_cast(source, torch.float32):
            node.replace_all_uses_with(source.args[0])  # type: ignore[union-attr]
            model.graph.erase_node(node)
    for node in list(model.graph.nodes):
        if _is_cast(node, torch.float32) and not node.users:
            model.graph.erase_node(node)


def _is_cast(node: object, dtype: torch.dtype) -> bool:
    return (
        isinstance(node, Node)
        and node.op == "call_method"
        and node.target == "to"
        and node.args[1:] == (dtype,)
    )
