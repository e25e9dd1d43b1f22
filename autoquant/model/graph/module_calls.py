"""Calls of the modules of a model, watched while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

OnInput = Callable[[str, tuple[Any, ...]], None]
OnOutput = Callable[[str, Any], Any]


@contextmanager
def watch_calls(
    model: nn.Module, paths: Iterable[str], on_input: OnInput, on_output: OnOutput
) -> Iterator[None]:
    """Show each call's arguments, those by name last, and its result, with its module's path.

    What `on_output` gives takes the place of the result; None keeps it.
    """
    handles = []
    for path in paths:
        module = model.get_submodule(path)
        handles += [
            module.register_forward_pre_hook(partial(_before, on_input, path), with_kwargs=True),
            module.register_forward_hook(partial(_after, on_output, path)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(values: Iterable[Any]) -> Tensor | None:
    """The first tensor among some values; None where there is none."""
    return next((value for value in values if isinstance(value, Tensor)), None)


def result_tensor(result: Any) -> Tensor | None:
    """The tensor that a module gives, or the first of several, as recurrent layers give."""
    return first_tensor(result if isinstance(result, (tuple, list)) else (result,))


def _before(
    call: OnInput, path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    call(path, (*args, *kwargs.values()))


def _after(call: OnOutput, path: str, _module: nn.Module, _args: tuple[Any, ...], out: Any) -> Any:
    return call(path, out)
