"""Ops that could run as one and do not, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from autoquant.core.concerns import Concern, Topic, attention, note
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.op_kinds import RELU_TAKERS

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WEIGHTED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_FUNCTIONAL = frozenset({F.conv1d, F.conv2d, F.conv3d, F.linear})
_RELUS: frozenset[object] = frozenset({F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"})
_FUSED_RELUS: frozenset[object] = frozenset({F.relu})
_ABSORBED_RELUS: frozenset[object] = frozenset({F.relu, torch.relu})
_TRANSPARENT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten)
_TRANSPARENT_CALLS: frozenset[object] = frozenset(
    {F.dropout, torch.flatten, torch.reshape, "view", "reshape", "flatten", "contiguous"}
)
_NORM_COST = (
    "the convolution's output is rounded before the batch norm rescales it, and the norm is one "
    "more op"
)
_RELU_COST = (
    "the output is rounded with its negative half, which the relu then throws away: up to one bit "
    "of resolution, and one more op"
)


def find_gaps(captured: Capture) -> Iterator[Concern]:
    """Find batch norms and relus that stay apart from the op that feeds them."""
    graph = captured.graph
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        if _is_norm(node, modules):
            yield from _norm_gap(node, modules)
        elif _is_relu(node, modules):
            yield from _relu_gap(node, modules)


def _norm_gap(node: Node, modules: Mapping[str, nn.Module]) -> Iterator[Concern]:
    between, feeding = _feeding(node, modules)
    if feeding is None or not _is_weighted(feeding, modules):
        return
    norm = modules.get(str(node.target))
    if between:
        reason = f"{_show(between[0], modules)} stands between"
        mend = f"move {_path(between[0])} behind the batch norm, or leave it out for inference"
    elif norm is None:
        reason, mend = "F.batch_norm is a function", "use an nn.BatchNorm module"
    elif feeding.op == "call_function":
        reason = f"{_show(feeding, modules)} is a function, and torch folds into modules alone"
        mend = "use an nn.Conv or nn.Linear module"
    elif isinstance(modules[str(feeding.target)], nn.Sequential):
        reason = "a relu stands between"
        mend = "fold this batch norm into the op that reads it, or pin it to fp32"
    elif len(feeding.users) > 1:
        reason = f"{_readers(feeding, node)} reads the output of {_path(feeding)} too"
        mend = f"give that reader a copy of {_path(feeding)}, or let it read the batch norm"
    else:
        reason = f"torch has no fusion of {_show(feeding, modules)} with {_show(node, modules)}"
        mend = "fold it with torch.nn.utils.fusion, or pin it to fp32"
    yield attention(
        Topic.FUSION,
        (_path(feeding), _path(node)),
        f"{_show(node, modules)} is not folded into {_show(feeding, modules)}: {reason}",
        _NORM_COST,
        mend,
    )


def _relu_gap(node: Node, modules: Mapping[str, nn.Module]) -> Iterator[Concern]:
    between, feeding = _feeding(node, modules)
    if feeding is None or not _takes_relu(feeding, modules):
        return
    where = (_path(feeding), _path(node))
    what = f"{_show(node, modules)} is not fused with {_show(feeding, modules)}"
    if between:
        first = between[0]
        yield attention(
            Topic.FUSION,
            where,
            f"{what}: {_show(first, modules)} stands between",
            _RELU_COST,
            f"move {_path(first)} behind the relu, or leave it out for inference",
        )
    elif node.op != "call_module" and node.target not in _fusable_relus(feeding):
        yield attention(
            Topic.FUSION,
            where,
            f"{what}: it is written as {_spelling(node)}",
            _RELU_COST,
            "write it as F.relu or an nn.ReLU module",
        )
    elif len(feeding.users) > 1:
        yield note(
            Topic.FUSION,
            where,
            f"{what}: {_readers(feeding, node)} reads the output of {_path(feeding)} too",
            _RELU_COST,
            "nothing, if the network means it so; else let the other op read the relu",
        )


def _fusable_relus(feeding: Node) -> frozenset[object]:
    """Modules fuse with F.relu alone; functions absorb torch.relu as well."""
    return _FUSED_RELUS if feeding.op == "call_module" else _ABSORBED_RELUS


def _feeding(node: Node, modules: Mapping[str, nn.Module]) -> tuple[list[Node], Node | None]:
    """What feeds a node, and the ops without arithmetic that stand between, nearest first."""
    between: list[Node] = []
    while node.args and isinstance(node.args[0], Node):
        node = node.args[0]
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, _TRANSPARENT) and node.target not in _TRANSPARENT_CALLS:
            return between, node
        between.append(node)
    return between, None


def _is_norm(node: Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(_first(modules[str(node.target)]), _NORMS)
    return node.target is F.batch_norm


def _first(module: nn.Module) -> nn.Module:
    """The first op of a fused module."""
    return next(module.children(), module) if isinstance(module, nn.Sequential) else module


def _is_relu(node: Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    return node.op in ("call_function", "call_method") and node.target in _RELUS


def _is_weighted(node: Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op != "call_module":
        return node.target in _FUNCTIONAL
    return isinstance(_first(modules[str(node.target)]), _WEIGHTED)


def _takes_relu(node: Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a relu could run as part of the op; an op that has one already takes no second."""
    if node.op == "call_function":
        return node.target in RELU_TAKERS
    if node.op != "call_module":
        return False
    module = modules[str(node.target)]
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_NORMS[1:]))


def _readers(feeding: Node, node: Node) -> str:
    others = [item.name for item in feeding.users if item is not node]
    return others[0] if len(others) == 1 else f"{others[0]} (and {len(others) - 1} more)"


def _path(node: Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _show(node: Node, modules: Mapping[str, nn.Module]) -> str:
    if node.op == "call_module":
        return f"{type(modules[str(node.target)]).__name__} {str(node.target)!r}"
    return f"{_spelling(node)} {node.name!r}"


def _spelling(node: Node) -> str:
    if node.op == "call_method":
        return f"the method .{node.target}()"
    module = getattr(node.target, "__module__", "") or ""
    return f"{module.removeprefix('_')}.{getattr(node.target, '__name__', node.target)}"
