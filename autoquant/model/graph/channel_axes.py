"""Which axis of a tensor counts channels: behind a convolution the second, of tokens the last."""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import GraphModule, Node

from autoquant.model.graph.aten import CONVOLUTIONS, RECURRENT, RESHAPING, op_name
from autoquant.model.graph.node_shapes import shape_of

SECOND, LAST = 1, -1

_OWN = dict.fromkeys({"linear", "embedding", "layer_norm", "rms_norm"} | RECURRENT, LAST)
_OWN |= dict.fromkeys({"batch_norm", "group_norm", "instance_norm"} | CONVOLUTIONS, SECOND)
"""Ops that say where channels are, in what they read and in what they give."""

_VIEWS = frozenset(
    {"_unsafe_view", "alias", "clone", "contiguous", "flatten", "reshape", "unflatten", "view"}
)
"""Ops that move values which keep the order in memory."""


def channel_axes(graph: GraphModule) -> dict[str, int]:
    """Give the axis by name of the node that gives a tensor.

    The op that writes a tensor says it, or else one that reads it; sums and activations hand on
    what their inputs or outputs have, and ops that move values put it elsewhere. It is the second
    where nothing says it.
    """
    axes = {node.name: _OWN[op_name(node)] for node in graph.graph.nodes if op_name(node) in _OWN}
    for node in graph.graph.nodes:
        _settle(axes, node, (_behind(it, node, axes.get(it.name)) for it in node.all_input_nodes))
    for node in reversed(graph.graph.nodes):
        _settle(axes, node, (_before(node, it, axes.get(it.name)) for it in node.users))
    return {node.name: axes.get(node.name, SECOND) for node in graph.graph.nodes}


def _settle(axes: dict[str, int], node: Node, found: Iterable[int | None]) -> None:
    known = [axis for axis in found if axis is not None]
    if known:
        axes.setdefault(node.name, known[0])


def _behind(source: Node, node: Node, axis: int | None) -> int | None:
    """Where a node has the channels that are at an axis of what it reads; None: nobody knows."""
    order = _order(node)
    if axis is None or order is None:
        return _kept(source, node, axis)
    return _named(order.index(axis % len(order)), len(order))


def _before(source: Node, node: Node, axis: int | None) -> int | None:
    """Where what a node reads has the channels that are at an axis of the node."""
    order = _order(node)
    if axis is not None and order is not None:
        return _named(order[axis % len(order)], len(order))
    return axis if op_name(node) in _OWN else _kept(source, node, axis)


def _order(node: Node) -> list[int] | None:
    """By axis of a node that permutes axes, the axis of what it reads."""
    rank = len(shape_of(node) or ())
    if op_name(node) == "permute":
        return [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr, arg-type]
    if op_name(node) not in ("transpose", "t") or rank < 2:
        return None
    first, second = (int(axis) % rank for axis in (*node.args[1:3], 0, 1)[:2])  # type: ignore[arg-type]
    order = list(range(rank))
    order[first], order[second] = second, first
    return order


def _named(axis: int, rank: int) -> int:
    return LAST if axis == rank - 1 else axis


def _kept(source: Node, node: Node, axis: int | None) -> int | None:
    """The axis, where a node has at it what the source has, or parts of it (heads)."""
    before, after = shape_of(source) or (), shape_of(node) or ()
    if op_name(node) not in RESHAPING:
        return axis if len(before) == len(after) else None
    if axis is None or op_name(node) not in _VIEWS or not before or not after:
        return None
    if axis == LAST:
        is_kept = max(before[-1], after[-1]) % max(min(before[-1], after[-1]), 1) == 0
    else:
        is_kept = before[: axis + 1] == after[: axis + 1]
    return axis if is_kept else None
