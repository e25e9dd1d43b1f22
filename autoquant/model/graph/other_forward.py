"""A module with the same parts at the same paths, and a forward of its own."""

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
    made = nn.Module()
    made.__class__ = type(type(model).__name__, (type(model),), {})
    made.__dict__.update(model.__dict__)
    made.__dict__["forward"] = forward
    return made
