"""Rewrites of an exported graph that keep its function: batch norms and constant products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from autoquant.model.graph.aten import CONVOLUTIONS, op_name
from autoquant.model.graph.scopes import scope_of

_ATEN = torch.ops.aten
_EPSILON = 7
"""Position among the arguments of batch_norm."""

UNFOLDED = "unfolded"
"""Key in the metadata of a layer that a batch norm was folded into."""


@dataclass(frozen=True, slots=True)
class Unfolded:
    """The parameters that a folded layer is computed from, by path; None: it has none there.

    Attributes:
        weight: Of the layer.
        bias: Of the layer.
        gamma: What the batch norm multiplies with.
        beta: What it adds.
    """

    weight: str | None
    bias: str | None
    gamma: str | None
    beta: str | None


def fold_batch_norms(module: GraphModule) -> dict[str, str]:
    """Fold batch norms into the convolution or linear layer that alone feeds them, in place.

    The arithmetic is written into the graph, so that the folded weight still follows from the
    model's parameters: w' = w * gamma / sqrt(var + eps), b' = beta + (b - mean) * gamma /
    sqrt(var + eps) (Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, eq. 14). A layer that is called several times
    is folded at each call by itself.

    Returns:
        By path of the layer, path of its batch norm.
    """
    folded: dict[str, str] = {}
    for norm in list(module.graph.nodes):
        if op_name(norm) != "batch_norm" or not isinstance(norm.args[0], Node):
            continue
        layer = norm.args[0]
        if _can_fold(layer, norm):
            _fold(module.graph, layer, norm)
            folded[scope_of(layer)] = scope_of(norm)
    return folded


def name_linear_layers(module: GraphModule) -> None:
    """Write every product with a constant matrix as the linear layer that it is, in place.

    `addmm(b, x, w)` (Hugging Face's Conv1D), `x @ w` and `mm(x, w)` become `linear(x, w.T, b)`.
    """
    for node in list(module.graph.nodes):
        name = op_name(node)
        if name == "addmm" and not node.kwargs:
            bias, source, weight = node.args
        elif name in ("mm", "matmul") and len(node.args) == 2:
            bias, (source, weight) = None, node.args
        else:
            continue
        value = weight.meta.get("val") if isinstance(weight, Node) else None
        if value is None or value.ndim != 2 or not is_constant(weight) or is_constant(source):
            continue
        if bias is not None and not (is_constant(bias) and bias.meta["val"].ndim == 1):
            continue
        with module.graph.inserting_before(node):
            turned = _call(module.graph, _ATEN.t.default, (weight,), node)
        turned.meta["val"] = value.t()
        node.target = _ATEN.linear.default
        node.args = (source, turned) if bias is None else (source, turned, bias)


def _path(node: object) -> str | None:
    """Path of a tensor that the model holds; None for one that is computed."""
    return str(node.target) if isinstance(node, Node) and node.op == "get_attr" else None


def _can_fold(layer: Node, norm: Node) -> bool:
    name = op_name(layer)
    if len(layer.users) != 1 or (name not in CONVOLUTIONS and name != "linear"):
        return False
    if name == "linear" and layer.meta["val"].ndim != 2:
        return False
    constants = [*layer.args[1:3], *norm.args[1:5]]
    return all(item is None or is_constant(item) for item in constants)


def is_constant(node: object) -> bool:
    """Whether a value depends on no input."""
    pending = [node]
    while pending:
        item = pending.pop()
        if not isinstance(item, Node) or item.op == "placeholder":
            return False
        pending.extend(item.all_input_nodes)
    return True


def _fold(graph: Graph, layer: Node, norm: Node) -> None:
    weight = layer.args[1]
    bias = layer.args[2] if len(layer.args) > 2 else None
    gamma, beta, mean, variance = norm.args[1:5]
    with graph.inserting_before(layer):

        def call(target: Any, *args: Any) -> Node:
            return _call(graph, target, args, layer)

        scale = call(_ATEN.rsqrt.default, call(_ATEN.add.Tensor, variance, norm.args[_EPSILON]))
        if gamma is not None:
            scale = call(_ATEN.mul.Tensor, gamma, scale)
        new_weight = _scaled(call, layer, weight, scale)
        centred = (
            call(_ATEN.neg.default, mean) if bias is None else call(_ATEN.sub.Tensor, bias, mean)
        )
        new_bias = call(_ATEN.mul.Tensor, centred, scale)
        if beta is not None:
            new_bias = call(_ATEN.add.Tensor, new_bias, beta)
    new_weight.meta["val"] = weight.meta["val"]  # type: ignore[union-attr]
    layer.args = (layer.args[0], new_weight, new_bias, *layer.args[3:])
    layer.meta["folded"] = True
    layer.meta[UNFOLDED] = Unfolded(*map(_path, (weight, bias, gamma, beta)))
    norm.replace_all_uses_with(layer)
    graph.erase_node(norm)


def _scaled(call: Any, layer: Node, weight: Any, scale: Node) -> Node:
    """A weight times a factor for each output channel."""
    shape: Sequence[int] = list(weight.meta["val"].shape)
    rest = [1] * (len(shape) - 2)
    found: Node
    if "transpose" not in op_name(layer):
        factor = call(_ATEN.reshape.default, scale, [-1, 1, *rest])
        found = call(_ATEN.mul.Tensor, weight, factor)
        return found
    groups = _groups(layer)
    apart = call(_ATEN.reshape.default, weight, [groups, shape[0] // groups, shape[1], *shape[2:]])
    factor = call(_ATEN.reshape.default, scale, [groups, 1, shape[1], *rest])
    found = call(_ATEN.reshape.default, call(_ATEN.mul.Tensor, apart, factor), list(shape))
    return found


def _groups(layer: Node) -> int:
    """Groups of a transposed convolution: its seventh argument."""
    found = layer.args[6] if len(layer.args) > 6 else layer.kwargs.get("groups", 1)
    assert isinstance(found, int)
    return found


def _call(graph: Graph, target: Any, args: tuple[Any, ...], like: Node) -> Node:
    node = graph.call_function(target, args)
    node.meta["nn_module_stack"] = like.meta.get("nn_module_stack")
    return node
