"""Trace a float model as torch's `prepare_fx` does, before and after it fuses."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.ao.quantization.fx.fuse import fuse
from torch.ao.quantization.fx.tracer import QuantizationTracer
from torch.ao.quantization.quantize_fx import _attach_meta_to_node_if_not_exist, _swap_ff_with_fxff
from torch.fx import GraphModule

from autoquant.core.quiet import no_warnings
from autoquant.errors import ModelError
from autoquant.torch_ao.backend_config import shared_backend_config

_TORCH_FOLDER = str(Path(torch.__file__).parent)


@dataclass(frozen=True, slots=True, eq=False)
class FxModel:
    """A float model in the eyes of `prepare_fx`.

    Attributes:
        apart: Its graph with every call a node of its own.
        fused: The graph that observers are put into: conv, bn and relu are one node at the conv's
            path. Nodes that are in both graphs have one name.
        scopes: By node name, path and class of the module whose forward made the call.
        leaf_modules: Paths that were not traced into.
    """

    apart: GraphModule
    fused: GraphModule
    scopes: dict[str, tuple[str, type]]
    leaf_modules: tuple[str, ...]


def trace(model: nn.Module, leaf_modules: Sequence[str] = ()) -> FxModel:
    """Trace and fuse a copy of a model in eval mode."""
    model = copy.deepcopy(model).eval()
    _swap_ff_with_fxff(model)
    tracer = _BlamingTracer(list(leaf_modules), [])
    tracer.record_stack_traces = False  # nobody reads them, and torch imports dynamo to write them
    with no_warnings():
        try:
            apart = GraphModule(model, tracer.trace(model))
        except Exception as error:
            raise _explain(error, tracer.failed_path, model) from error
        _attach_meta_to_node_if_not_exist(apart)
        try:
            fused = fuse(copy.deepcopy(apart), is_qat=False, backend_config=shared_backend_config())
        except AssertionError as error:
            raise ModelError(
                f"torch cannot fold the model's batch norms: {error}",
                hint="train them with track_running_stats=True, or use another norm",
            ) from error
    return FxModel(apart, fused, dict(tracer.node_name_to_scope), tuple(leaf_modules))


class _BlamingTracer(QuantizationTracer):
    """Remembers the module in which tracing failed."""

    failed_path: str | None = None
    _path: tuple[str, ...] = ()

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        outer, self._path = self._path, (*self._path, self.path_of_module(m))
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_path = self.failed_path or self._path[-1]
            raise
        finally:
            self._path = outer


def _explain(error: Exception, path: str | None, model: nn.Module) -> ModelError:
    """Name the module and the user's line that torch.fx could not follow."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_TORCH_FOLDER) and not frame.filename.startswith("<")
    ]
    where = f"{frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else "?"
    kind = type(model.get_submodule(path or "")).__name__
    name = f"module {path!r} ({kind})" if path else f"the model itself ({kind})"
    return ModelError(
        f"torch.fx cannot trace {name}: {error} at {where}",
        hint="rewrite the line without control flow that depends on tensor values; or use "
        "quantize(model), which needs no torch.fx",
    )
