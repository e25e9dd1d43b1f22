"""Calls of a built model's modules, wrapped for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

Wrapper = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def wrapped_calls(modules: Mapping[str, nn.Module], wrapper: Wrapper) -> Iterator[None]:
    """Call `wrapper(name, forward, args, kwargs)` in place of each module's forward.

    Hooks would do the same, but where a module has hooks torch leaves its fast path for
    transformers, so that what is watched would not be what runs.

    Args:
        modules: By name; several may be one module, which then has the first name.
        wrapper: Makes the call and gives its result.
    """
    named = {id(module): (name, module) for name, module in reversed(list(modules.items()))}
    for name, module in named.values():
        module.forward = partial(_call, wrapper, name, module.forward)
    try:
        yield
    finally:
        for _, module in named.values():
            del module.forward


def _call(
    wrapper: Wrapper, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    return wrapper(name, forward, args, kwargs)
