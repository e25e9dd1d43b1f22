"""A module with the same parts at the same paths, of another class or with another forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


def with_forward(
    model: nn.Module, forward: Callable[..., Any], signature: inspect.Signature | None = None
) -> nn.Module:
    """Give a module another forward; it is neither copied nor changed.

    Args:
        model: Any module.
        forward: Called with what the module is called with.
        signature: Of that forward; None: that of the module's.
    """
    forward.__signature__ = signature or inspect.signature(model.forward)  # type: ignore[attr-defined]
    made = as_class(model, type(type(model).__name__, (type(model),), {}))
    made.__dict__["forward"] = forward
    return made


def as_class(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Give a module over the same parts that is of another class."""
    made = nn.Module()
    made.__class__ = kind
    made.__dict__.update(model.__dict__)
    return made
