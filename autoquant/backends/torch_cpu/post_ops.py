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


def post_op_of(
    operation: Operation, alone: PostOps | None, behind_sum: PostOps | None
) -> PostOp | None:
    """What a kernel must compute behind an operation's root, or behind its sum.

    Args:
        operation: A convolution or linear layer, and what runs within it.
        alone: What the kernel knows where there is no sum; None: there is no such kernel.
        behind_sum: What it knows behind one; None: it adds nothing.

    Returns:
        None where it does not know it.
    """
    is_sum = operation.addend is not None
    known, rest = behind_sum if is_sum else alone, operation.nodes[2 if is_sum else 1 :]
    if alone is None or known is None or len(rest) > 1:
        return None
    if not rest:
        return ("none", [], "")
    make = known.get(op_name(rest[0]))
    return None if make is None else make(rest[0])
