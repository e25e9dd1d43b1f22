"""Tensors that a mask fills with infinity, or with the lowest float: no range fits them."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from autoquant.model.graph.aten import op_name

LARGEST = 1e30
"""No activation comes near; masks hold -inf or the lowest float, about -3.4e38."""

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
    """Follows masks through a graph that runs in order."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def take(self, node: Node, value: Tensor) -> bool:
        """Tell whether a mask put the largest values of this tensor there."""
        if node.name in self.names:
            return True
        if value.numel() == 0 or not _is_large(value):
            return False
        filled = node.op in ("get_attr", "placeholder") or op_name(node) in _FILLING
        if filled or any(source.name in self.names for source in node.all_input_nodes):
            self.names.add(node.name)
            return True
        return False


def _is_large(value: Tensor) -> bool:
    low, high = value.aminmax()
    return max(-float(low), float(high)) >= LARGEST  # NaN is not
