"""Activations that onednn's kernels compute on a result before they write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.fx import Node

from autoquant.backends.torch_cpu.operations import Operation, argument
from autoquant.model.graph.aten import op_name

PostOp = tuple[str, list[float], str]
"""Name, numbers and algorithm, as the operators take them."""

PostOps = Mapping[str, Callable[[Node], PostOp]]
"""By activation."""


def plain(name: str) -> Callable[[Node], PostOp]:
    """A post-op without numbers."""
    return lambda _: (name, [], "")


def clamp(node: Node) -> PostOp:
    """Of a hardtanh."""
    low, high = argument(node, "min_val"), argument(node, "max_val")
    return ("hardtanh", [float(low), float(high)], "")


def gelu(node: Node) -> PostOp:
    """Of a GELU, exact or by tanh."""
    return ("gelu", [], str(argument(node, "approximate")))


def leak(node: Node) -> PostOp:
    """Of a leaky relu."""
    return ("leaky_relu", [float(argument(node, "negative_slope"))], "")


def post_op_of(operation: Operation, alone: PostOps, behind_sum: PostOps) -> PostOp | None:
    """What a kernel must compute behind an operation's root, or behind its sum.

    Args:
        operation: A convolution or linear layer, and what runs within it.
        alone: What the kernel knows where there is no sum.
        behind_sum: What it knows behind one.

    Returns:
        None where it does not know it.
    """
    is_sum = operation.addend is not None
    rest = operation.nodes[2 if is_sum else 1 :]
    if not rest:
        return ("none", [], "")
    make = (behind_sum if is_sum else alone).get(op_name(rest[0]))
    return make(rest[0]) if make is not None and len(rest) == 1 else None
