"""Ops that could run as one and do not, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch.fx import Node

from autoquant.core.findings.concerns import Concern, Topic, attention, note
from autoquant.model.graph.aten import CONVOLUTIONS, RELU_TAKING_OPS, op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.folding import is_constant
from autoquant.model.graph.node_shapes import shape_of
from autoquant.model.graph.scopes import scope_of

_WEIGHTED = CONVOLUTIONS | {"linear"}
_TRANSPARENT = frozenset({"clone", "contiguous", "flatten", "reshape", "view", "unflatten"})
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
    names = names_of(captured)
    fused = captured.site_of.keys() - captured.roots.keys()
    for node in captured.graph.graph.nodes:
        if op_name(node) == "batch_norm":
            yield from _norm_gap(node, names)
        elif op_name(node) == "relu" and node.name not in fused:
            yield from _relu_gap(node, names)


def names_of(captured: Capture) -> Mapping[str, str]:
    """By node, what to call it: its site, else the module that makes the call, else itself."""
    sites = captured.site_of
    return {
        node.name: sites.get(node.name) or scope_of(node) or node.name
        for node in captured.graph.graph.nodes
    }


def _norm_gap(node: Node, names: Mapping[str, str]) -> Iterator[Concern]:
    between, feeding = _feeding(node)
    if feeding is not None and op_name(feeding) == "relu":
        before = _feeding(feeding)[1]
        if before is not None and op_name(before) in _WEIGHTED:
            between, feeding = [feeding, *between], before
    if feeding is None or op_name(feeding) not in _WEIGHTED:
        return
    where = (_called(feeding, names), _called(node, names))
    weights = [item for item in feeding.args[1:3] if item is not None]
    if between:
        first = between[0]
        reason = f"a {op_name(first)} stands between"
        mend = f"move {names[first.name]} behind the batch norm, or leave it out for inference"
        if op_name(first) == "relu":
            mend = "fold this batch norm into the op that reads it, or pin it to fp32"
    elif len(feeding.users) > 1:
        reason = (
            f"{_readers(feeding, node, names)} reads the output of {_called(feeding, names)} too"
        )
        mend = (
            f"give that reader a copy of {_called(feeding, names)}, or let it read the batch norm"
        )
    elif not all(map(is_constant, weights)):
        reason = f"the weight of {where[0]} depends on the input"
        mend = "pin it to fp32"
    else:
        dimensions = len(shape_of(feeding) or ())
        reason = f"it takes the channels of another axis of a tensor of {dimensions} dimensions"
        mend = "fold it by hand, or pin it to fp32"
    yield attention(
        Topic.FUSION,
        where,
        f"the batch norm {where[1]!r} is not folded into {_show(feeding, names)}: {reason}",
        _NORM_COST,
        mend,
    )


def _relu_gap(node: Node, names: Mapping[str, str]) -> Iterator[Concern]:
    between, feeding = _feeding(node)
    if feeding is None or op_name(feeding) not in RELU_TAKING_OPS:
        return
    where = (_called(feeding, names), _called(node, names))
    what = f"the relu {where[1]!r} is not fused with {_show(feeding, names)}"
    if between:
        first = between[0]
        yield attention(
            Topic.FUSION,
            where,
            f"{what}: a {op_name(first)} stands between",
            _RELU_COST,
            f"move the {op_name(first)} behind the relu",
        )
    elif len(feeding.users) > 1:
        yield note(
            Topic.FUSION,
            where,
            f"{what}: {_readers(feeding, node, names)} reads the output of {where[0]} too",
            _RELU_COST,
            "nothing, if the network means it so; else let the other op read the relu",
        )


def _feeding(node: Node) -> tuple[list[Node], Node | None]:
    """What feeds a node, and the ops without arithmetic that stand between, nearest first."""
    between: list[Node] = []
    while node.args and isinstance(node.args[0], Node):
        node = node.args[0]
        if op_name(node) not in _TRANSPARENT:
            return between, node
        between.append(node)
    return between, None


def _readers(feeding: Node, node: Node, names: Mapping[str, str]) -> str:
    others = [_called(item, names) for item in feeding.users if item is not node]
    return others[0] if len(others) == 1 else f"{others[0]} (and {len(others) - 1} more)"


def _called(node: Node, names: Mapping[str, str]) -> str:
    return names.get(node.name, node.name)


def _show(node: Node, names: Mapping[str, str]) -> str:
    return f"{op_name(node)} {_called(node, names)!r}"
