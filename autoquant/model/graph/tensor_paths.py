"""Tensors at their paths in a module."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def put(root: nn.Module, name: str, value: Any) -> None:
    """Set a tensor at a path, making the modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if not isinstance(getattr(root, part, None), nn.Module):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    elif isinstance(value, Tensor):
        root.register_buffer(last, value)
    else:
        setattr(root, last, value)


def as_root(held: Mapping[str, Any]) -> nn.Module:
    """A module that holds tensors at their paths."""
    root = nn.Module()
    for name, value in held.items():
        put(root, name, value)
    return root


def take(root: nn.Module, name: str) -> Any:
    """What stands at a path."""
    return operator.attrgetter(name)(root)
