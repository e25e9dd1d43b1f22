"""Python that would fix a size, which leaves it open while torch.export follows a model."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import SymInt, Tensor
from torch.backends import opt_einsum


@contextmanager
def free_sizes() -> Iterator[None]:
    """Let `len(x)` of a tensor, and an einsum of three tensors or more, leave sizes open.

    Python makes a plain number of what `__len__` gives. For the order of an einsum opt_einsum,
    where it is installed, compares sizes, which makes them equal for good. Only replacing the
    functions themselves helps, as torch.export does with `max` and `min`.
    torch.compile looks at Python's functions once, when it is imported.
    """
    import torch._dynamo  # noqa: F401  slow, and torch.export imports it too

    length, einsum = builtins.len, opt_einsum.get_opt_einsum()
    builtins.len = lambda item, /: (
        item.shape[0] if isinstance(item, Tensor) and item.ndim else length(item)
    )
    order = None if einsum is None else einsum.contract_path
    if order is not None:
        einsum.contract_path = lambda equation, *operands, **settings: order(
            equation, *map(_example_shape, operands), shapes=True, **settings
        )
    try:
        yield
    finally:
        builtins.len = length
        if order is not None:
            einsum.contract_path = order


def _example_shape(tensor: Tensor) -> tuple[int, ...]:
    """The sizes of the example where sizes are open; the order of an einsum follows from them."""
    sizes: list[Any] = [
        item.node.hint if isinstance(item, SymInt) else item for item in tensor.shape
    ]
    return tuple(sizes)
