"""What each op does to the channels of the tensors that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from autoquant.model.equalisation.layers import (
    batch_norm,
    convolution,
    embedding,
    linear,
    normed,
)
from autoquant.model.equalisation.parameters import Term, along
from autoquant.model.equalisation.ties import Channels
from autoquant.model.equalisation.walk import Call, Rule, Walk
from autoquant.model.graph.aten import CONVOLUTIONS, RESHAPING, filling_of, op_name

_HOMOGENEOUS = frozenset({"abs", "dropout", "leaky_relu", "neg", "prelu", "relu"})
"""Ops with f(s x) = s f(x) for every s > 0, element by element."""

_MOVING = RESHAPING | {
    "chunk",
    "expand_as",
    "index_select",
    "narrow",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "unbind",
}
"""Ops that give some of their first input's values elsewhere."""

_REDUCING = frozenset({"amax", "amin", "mean", "sum"})
_MOST_CHANNELS = 1 << 16
"""A tensor that holds more channels than this is left as it is."""

_WITHIN_CHANNELS = ("adaptive_avg_pool", "avg_pool", "max_pool", "adaptive_max_pool", "upsample")
"""Before the dimensions in the names of ops that look at each channel alone."""


def rule_of(name: str) -> Rule | None:
    """What an op does, by its name; None: nothing is known of it."""
    if name in _RULES:
        return _RULES[name]
    if name in CONVOLUTIONS:
        return convolution
    if name in _HOMOGENEOUS:
        return _same
    if name in _MOVING:
        return _move
    if name in _REDUCING:
        return _reduce
    if name.startswith(_WITHIN_CHANNELS) and name.endswith("d") and name[-2].isdigit():
        return _spatial(int(name[-2]))
    return None


def _add(walk: Walk, call: Call) -> Any:
    """Both terms share their scales; a stored constant takes them up."""
    first, second = call.read(0), call.read(1)
    known = [item for item in (first, second) if isinstance(item, Node) and item.op != "get_attr"]
    if len(known) == 2:
        walk.ties.tie(walk.of(first), walk.of(second))
        return _of_rank(walk.of(first), call.rank)
    if not known:
        return None
    other = second if known[0] is first else first
    stored = walk.parameters.stored(other)
    channels = _of_rank(walk.of(known[0]), call.rank)
    if stored is None:
        return channels if _is_number(other, 0.0) else None
    shape = (*[1] * (call.rank - len(walk.shape(other))), *walk.shape(other))
    if any(wide > 1 and size == 1 for wide, size in zip(channels.shape, shape, strict=True)):
        return None
    own = channels.reshape(channels.shape[call.rank - len(stored.shape) :])
    walk.parameters.ask(call.node, other, stored, Term(own, -1))
    return channels


def _multiply(walk: Walk, call: Call) -> Any:
    """One factor hands its scales on, the other keeps its own."""
    first, second = call.read(0), call.read(1)
    if first is second or not isinstance(first, Node):
        return None
    if op_name(call.node) == "mul" and walk.ties.all_fixed(walk.of(first)):
        first, second = second, first
    if isinstance(second, Node):
        walk.fix(second)
    return _of_rank(walk.of(first), call.rank)


def _matmul(walk: Walk, call: Call) -> Any:
    """The columns of the second matrix hand their scales on."""
    first, second = call.read(0), call.read(1)
    if not isinstance(first, Node) or not isinstance(second, Node) or call.rank < 2:
        return None
    walk.fix(first)
    return _columns(walk, second, call.value)


def _attention(walk: Walk, call: Call) -> Any:
    """Attention averages its values over places; it is linear in each channel of them."""
    walk.fix(*(item for item in call.node.all_input_nodes if item is not call.read(2)))
    if call.read(2) in (call.read(0), call.read(1), call.read(3)):
        return None
    return _columns(walk, call.read(2), call.value)


def _columns(walk: Walk, node: Node, value: Tensor) -> Any:
    channels = walk.of(node)
    if len(walk.shape(node)) < 2 or (channels.ndim > 1 and channels.shape[-2] > 1):
        return None
    channels = _of_rank(channels, value.ndim)
    sizes = zip(channels.shape, value.shape, strict=True)
    return channels if all(own in (1, whole) for own, whole in sizes) else None


def _same(walk: Walk, call: Call) -> Any:
    return walk.of(call.read(0))


def _cast(walk: Walk, call: Call) -> Any:
    return walk.of(call.read(0)) if call.value.dtype is torch.float32 else None


def _spatial(dimensions: int) -> Rule:
    """A pool, or an interpolation, within each channel."""

    def rule(walk: Walk, call: Call) -> Any:
        axis = call.rank - dimensions - 1
        return along(axis, call.rank, walk.line(call.read(0), axis))

    return rule


def _reduce(walk: Walk, call: Call) -> Any:
    """A mean or a sum within each channel."""
    axes = call.given(1, "dim")
    rank = call.args[0].ndim
    axes = range(rank) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    reduced = {axis % rank for axis in axes}
    channels = _of_rank(walk.of(call.read(0)), rank)
    if any(channels.shape[axis] > 1 for axis in reduced):
        return None
    if call.rank == rank:
        return channels
    return np.squeeze(channels, tuple(reduced))


def _move(walk: Walk, call: Call) -> Any:
    """Move the numbers of the channels as the values are moved."""
    channels = _of_rank(walk.of(call.read(0)), call.args[0].ndim)
    spread = torch.from_numpy(channels.astype(np.float32)).expand(call.args[0].shape)
    moved = call.node.target(spread, *call.args[1:], **call.kwargs)  # type: ignore[operator]
    found = pytree.tree_map(_narrowed, moved)
    if any(item.size > _MOST_CHANNELS for item in pytree.tree_leaves(found)):
        return None
    return found


def _pad(walk: Walk, call: Call) -> Any:
    """Zeros may be new channels, of any scale; others are values from elsewhere."""
    if op_name(call.node) == "pad" and call.given(2, "mode", "constant") != "constant":
        return _move(walk, call)
    if filling_of(call.node) != 0.0:
        return None
    source = call.args[0]
    channels = _of_rank(walk.of(call.read(0)), source.ndim)
    for place in range(len(call.args[1]) // 2):
        axis = source.ndim - 1 - place
        before, after = call.args[1][2 * place : 2 * place + 2]
        if channels.shape[axis] == 1 or not (before or after):
            continue
        if min(before, after) < 0 or channels.size != channels.shape[axis]:
            return None
        line = [walk.ties.new(before), channels.reshape(-1), walk.ties.new(after)]
        channels = along(axis, source.ndim, np.concatenate(line))
    return channels


def _cat(walk: Walk, call: Call) -> Any:
    """Along the channels they stand side by side; along another axis they share scales."""
    axis = (call.given(1, "dim", 0)) % call.rank
    parts = [_of_rank(walk.of(item), call.rank) for item in call.read(0)]
    sizes = [item.shape[axis] for item in call.args[0]]
    if any(part.shape[axis] > 1 for part in parts):
        rows = [
            np.repeat(part, size, axis) if part.shape[axis] == 1 else part
            for part, size in zip(parts, sizes, strict=True)
        ]
        rest = np.broadcast_shapes(*(tuple(np.delete(row.shape, axis)) for row in rows))
        wide = [
            np.broadcast_to(row, (*rest[:axis], size, *rest[axis:]))
            for row, size in zip(rows, sizes, strict=True)
        ]
        return np.concatenate(wide, axis)
    for part in parts[1:]:
        walk.ties.tie(parts[0], part)
    return parts[0]


def _is_number(value: object, number: float) -> bool:
    return isinstance(value, (int, float)) and math.isclose(value, number)


def _of_rank(channels: Channels, rank: int) -> Channels:
    """The same for a tensor with more axes in front."""
    return channels.reshape(*[1] * (rank - channels.ndim), *channels.shape)


def _narrowed(numbers: Tensor) -> Channels:
    """Keep one row of each axis along which nothing differs."""
    for axis, size in enumerate(numbers.shape):
        first = numbers.narrow(axis, 0, min(1, size))
        if bool((numbers == first).all()):
            numbers = first
    return np.asarray(numbers.numpy()).astype(np.int64)


_RULES: Mapping[str, Rule] = {
    "_to_copy": _cast,
    "add": _add,
    "batch_norm": batch_norm,
    "bmm": _matmul,
    "cat": _cat,
    "constant_pad_nd": _pad,
    "div": _multiply,
    "embedding": embedding,
    "group_norm": normed(2, 3, 1),
    "instance_norm": normed(1, 2, 1),
    "layer_norm": normed(2, 3, -1),
    "linear": linear,
    "matmul": _matmul,
    "mul": _multiply,
    "pad": _pad,
    "rms_norm": normed(2, None, -1),
    "scaled_dot_product_attention": _attention,
    "sub": _add,
    "to": _cast,
}
