"""Tensors that a mask fills with infinity, the lowest float or a low number: no range fits them."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from autoquant.model.graph.aten import hands_on, op_name

LARGEST = 1e30
"""No activation comes near; masks hold -inf or the lowest float, about -3.4e38."""

_LOW = 1e4
"""What additive masks of finite numbers hold at least, below zero: -1e4 and -1e9 are common."""
_HIDING = frozenset({"add", "sub", "where"})
"""Ops that put a mask into what they read beside it, also where the batch at hand hides nothing."""
_FILLING = frozenset(
    {
        "constant_pad_nd",
        "full",
        "full_like",
        "masked_fill",
        "new_full",
        "pad",
        "scalar_tensor",
        "tril",
        "triu",
        "where",
    }
)


class MaskedNodes:
    """Follows masks through a graph that runs in order.

    A mask is a tensor that holds nothing but zeros and numbers of at least 1e4 below zero, or that
    many times something (`(1.0 - mask) * -1e4`), and what is made of masks alone.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._masks: set[str] = set()

    def take(self, node: Node, value: Tensor) -> bool:
        """Tell whether a mask put the largest values of this tensor there."""
        if node.name in self.names:
            return True
        if value.numel() == 0:
            return False
        if self._is_mask(node, value):
            self._masks.add(node.name)
        elif not self._hides(node, value):
            return False
        self.names.add(node.name)
        return True

    def _is_mask(self, node: Node, value: Tensor) -> bool:
        if op_name(node) in ("mul", "where") and _largest_number(node) >= _LOW:
            size = value.abs()
            return bool(((size == 0) | (size == size.max())).all())  # zeros where nothing is hidden
        made_of_one = any(source.name in self._masks for source in node.all_input_nodes)
        if not made_of_one and not float(value.amin()) <= -_LOW:
            return False
        return bool(((value == 0) | (value <= -_LOW)).all())

    def _hides(self, node: Node, value: Tensor) -> bool:
        if op_name(node) in ("masked_fill", "where") and _largest_number(node) >= _LOW:
            return True
        sources = {source.name for source in node.all_input_nodes}
        if not self.names.isdisjoint(sources):
            adds = op_name(node) in _HIDING or hands_on(node)
            return adds or float(value.abs().max()) >= _LOW / 2
        filled = node.op in ("get_attr", "placeholder") or op_name(node) in _FILLING
        return filled and is_lowest(value)


def is_lowest(value: Tensor) -> bool:
    """Tell whether a tensor holds infinity, or numbers as large as the lowest float."""
    low, high = value.aminmax()
    return max(-float(low), float(high)) >= LARGEST  # NaN is not


def _largest_number(node: Node) -> float:
    """The largest size of the numbers among a node's arguments; 0 where there is none."""
    numbers = [abs(item) for item in node.args if isinstance(item, int | float)]
    return max(numbers, default=0.0)
