"""What shape propagation left at the nodes of a graph."""

from __future__ import annotations

from typing import Any

from torch.fx import Node
from torch.fx.passes.shape_prop import TensorMetadata


def tensor_meta(node: Node) -> TensorMetadata | None:
    """What shape propagation saw of the (first) tensor a node gives."""
    meta: Any = node.meta.get("tensor_meta")
    if isinstance(meta, tuple) and not isinstance(meta, TensorMetadata):
        meta = meta[0] if meta else None
    return meta if isinstance(meta, TensorMetadata) else None


def shape_of(node: Node) -> tuple[int, ...] | None:
    """Shape of the (first) tensor a node gives; None where it gives none."""
    meta = tensor_meta(node)
    return tuple(meta.shape) if meta is not None else None


def fixed_sizes(node: Node) -> tuple[int | None, ...]:
    """Sizes of the tensor that a node gives, None where one may change from call to call.

    Empty where export did not say.
    """
    shape = getattr(node.meta.get("val"), "shape", ())
    return tuple(size if isinstance(size, int) else None for size in shape)


def is_float(node: Node) -> bool:
    """Whether a node gives a floating tensor."""
    meta = tensor_meta(node)
    return meta is not None and meta.dtype.is_floating_point
