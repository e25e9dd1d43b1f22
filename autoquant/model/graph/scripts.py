"""TorchScript inside a model: its modules become graphs, so that torch.export can follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autoquant.errors import ModelError, first_line
from autoquant.model.graph.other_forward import as_class


def find_scripts(model: nn.Module) -> dict[str, torch.jit.ScriptModule]:
    """The ScriptModules of a model that lie within no other, by path."""
    found: dict[str, torch.jit.ScriptModule] = {}
    for path, module in model.named_modules():
        within = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, torch.jit.ScriptModule) and not within:
            found[path] = module
    return found


def without_scripts(model: nn.Module, call: Callable[[nn.Module], object]) -> nn.Module:
    """Give the model with a graph of what it computes in the place of each ScriptModule.

    Args:
        model: It is not changed; all other parts are shared with it.
        call: Runs a model once on an example.

    Raises:
        ModelError: torch makes no graph of one.
    """
    heard = {path: _Listener(module) for path, module in find_scripts(model).items()}
    if not heard:
        return model
    call(_with_parts(model, heard))
    return _with_parts(model, {path: item.converted(path) for path, item in heard.items()})


class _Listener(nn.Module):
    """Calls a module, and keeps what it was called with first."""

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._heard = module
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module."""
        self._call = self._call or (args, kwargs)
        return self._heard(*args, **kwargs)

    def converted(self, path: str) -> nn.Module:
        """A graph of the module; itself where it was not called."""
        if self._call is None:
            return self._heard
        args, kwargs = self._call
        try:
            from torch._export.converter import TS2EPConverter

            program = TS2EPConverter(self._heard, args, kwargs).convert()
            return _Called(program.module(check_guards=False))
        except Exception as error:
            raise ModelError(
                f"torch makes no graph of the ScriptModule at {path!r}: {first_line(error)}",
                hint="put the Python module that it was made from in its place",
            ) from error


class _Called(nn.Module):
    """A graph as a plain module over the same parts, so that torch.export tells its path."""

    _run: Callable[..., Any]

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        for name in ("_parameters", "_buffers", "_modules"):
            self.__dict__[name] = graph.__dict__[name]
        self.__dict__["_run"] = graph.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the graph."""
        return self._run(*args, **kwargs)


def _with_parts(model: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """The model with other modules at some paths."""
    made = as_class(model, type(model))
    children = dict(model._modules)
    for name in {path.partition(".")[0] for path in parts}:
        below = {
            path.partition(".")[2]: part
            for path, part in parts.items()
            if path.partition(".")[0] == name
        }
        children[name] = below.get("") or _with_parts(model.get_submodule(name), below)
    made.__dict__["_modules"] = children
    return made
