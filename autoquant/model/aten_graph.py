"""torch.export's graph of a model, without what only training and checks need."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from autoquant.errors import ModelError
from autoquant.model.aten import CONVOLUTIONS, op_name

_CHECKS = ("_assert", "sym_constrain_range")
_TRAINING, _EPSILON = 5, 7
"""Positions among the arguments of batch_norm."""


def export_graph(model: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    """Export a copy of a model, with any number of samples, and clear its graph.

    Args:
        model: Any float module.
        example: One batch.

    Raises:
        ModelError: torch.export cannot follow the model, or only for one number of samples.
    """
    if len(example[0]) == 1:  # torch.export takes a dimension of 1 for a constant
        example = tuple(torch.cat([item, item]) for item in example)
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                copy.deepcopy(model).eval(), example, dynamic_shapes=shapes, strict=False
            )
        except Exception as error:
            raise ModelError(
                f"torch.export cannot capture the model: {_first_line(error)}",
                hint="rewrite what it names, so that it works for any number of samples; or "
                "capture: eager, which looks at weighted modules alone",
            ) from error
        graph = program.module()
    _drop_checks(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def scope_of(node: Node) -> str:
    """Path of the module whose forward made a call; calls of one module share it."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    path = path.removeprefix("L['self'].").partition("@")[0]
    return "" if path.startswith(("_empty", "L['self']")) else path


def fold_batch_norms(graph: GraphModule, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Fold batch norms into the convolution or linear layer that alone feeds them, in place.

    Args:
        graph: From `export_graph`.
        modules: Of the float model, by path.

    Returns:
        By path of the layer, path of its batch norm.
    """
    folded: dict[str, str] = {}
    for node in list(graph.graph.nodes):
        if op_name(node) != "batch_norm" or node.args[_TRAINING]:
            continue
        layer = node.args[0]
        if not isinstance(layer, Node) or not _can_fold(layer, node, modules):
            continue
        _fold(graph, layer, node)
        folded[scope_of(layer)] = scope_of(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return folded


def _drop_checks(graph: GraphModule) -> None:
    """Take assertions and dropout in eval mode out, in place."""
    for node in reversed(list(graph.graph.nodes)):
        guard = node.op == "call_module" and node.target == "_guards_fn"
        if guard or (op_name(node).startswith(_CHECKS) and not node.users):
            graph.graph.erase_node(node)
        elif op_name(node) in ("dropout", "feature_dropout") and node.args[2] is False:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    if hasattr(graph, "_guards_fn"):
        del graph._guards_fn


def _can_fold(layer: Node, norm: Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a batch norm alone reads a layer, and both are modules that are called once."""
    name = op_name(layer)
    if len(layer.users) != 1 or (name not in CONVOLUTIONS and name != "linear"):
        return False
    value = layer.meta.get("val")
    if name == "linear" and (value is None or value.ndim != 2):
        return False
    weights = [arg for arg in (*layer.args[1:3], *norm.args[1:5]) if isinstance(arg, Node)]
    if any(item.op != "get_attr" or len(item.users) != 1 for item in weights):
        return False
    owners = {str(item.target).rpartition(".")[0] for item in weights}
    paths = {scope_of(layer), scope_of(norm)}
    return owners == paths and len(paths) == 2 and paths <= modules.keys()


def _fold(graph: GraphModule, layer: Node, norm: Node) -> None:
    path = scope_of(layer)
    weight, bias = (_value(graph, arg) for arg in (*layer.args[1:3], None)[:2])
    if weight is None:
        raise ValueError(f"{layer.name} has no weight")
    scale, shift, mean, variance = (_value(graph, arg) for arg in norm.args[1:5])
    numbers = (weight, bias, mean, variance, norm.args[_EPSILON], scale, shift)
    with torch.no_grad():
        if op_name(layer) == "linear":
            new = fuse_linear_bn_weights(*numbers)  # type: ignore[arg-type]
        else:
            transposed = "transpose" in op_name(layer)
            new = fuse_conv_bn_weights(*numbers, transpose=transposed)  # type: ignore[arg-type]
    owner = graph.get_submodule(path)
    owner.weight, owner.bias = new
    if bias is None:
        with graph.graph.inserting_before(layer):
            node = graph.graph.get_attr(f"{path}.bias")
        rest = layer.args[3:]
        layer.args = (layer.args[0], layer.args[1], node, *rest)
    norm.replace_all_uses_with(layer)
    graph.graph.erase_node(norm)


def _value(graph: GraphModule, arg: object) -> Tensor | None:
    if not isinstance(arg, Node):
        return None
    owner, _, name = str(arg.target).rpartition(".")
    found: Tensor = getattr(graph.get_submodule(owner), name)
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
