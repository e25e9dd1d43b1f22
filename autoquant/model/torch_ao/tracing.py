"""Trace a float model and fuse it exactly as `prepare_fx` will."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.ao.quantization.fx.fuse import fuse
from torch.ao.quantization.fx.tracer import QuantizationTracer
from torch.ao.quantization.quantize_fx import _attach_meta_to_node_if_not_exist, _swap_ff_with_fxff
from torch.fx import GraphModule

from autoquant.errors import ModelError
from autoquant.model.float_graph import FloatGraph
from autoquant.model.torch_ao.backend_config import shared_backend_config

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TORCH_FOLDER = str(Path(torch.__file__).parent)


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


def trace_float(model: nn.Module, leaf_modules: Sequence[str] = ()) -> FloatGraph:
    """Trace a copy of `model` in eval mode and fuse it.

    Args:
        model: Any float module.
        leaf_modules: Paths of modules that are not traced into; they stay in fp32 as a whole.

    Raises:
        ModelError: The model cannot be traced; names the module and the line.
    """
    apart = trace_unfused(model, leaf_modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fused = fuse(apart.module, is_qat=False, backend_config=shared_backend_config())
        except AssertionError as error:
            raise ModelError(
                f"torch cannot fold the model's batch norms: {error}",
                hint="train them with track_running_stats=True, or use another norm",
            ) from error
    folded = _folded_batch_norms(apart.module, fused)
    return FloatGraph(module=fused, scopes=apart.scopes, folded=folded, how="fx")


def trace_unfused(model: nn.Module, leaf_modules: Sequence[str] = ()) -> FloatGraph:
    """Trace a copy of `model` in eval mode, every op a node of its own.

    Args:
        model: Any float module.
        leaf_modules: Paths of modules that are not traced into; they stay in fp32 as a whole.

    Raises:
        ModelError: The model cannot be traced; names the module and the line.
    """
    known = dict(model.named_modules())
    for path in leaf_modules:
        if path not in known:
            raise ModelError(
                f"model.leaf_modules: the model has no module {path!r}",
                hint=f"give a path of model.named_modules(): {_few(filter(None, known))}",
            )
    model = copy.deepcopy(model).eval()
    _swap_ff_with_fxff(model)
    tracer = _BlamingTracer(list(leaf_modules), [])
    tracer.record_stack_traces = False  # nobody reads them, and torch imports dynamo to write them
    try:
        module = GraphModule(model, tracer.trace(model))
    except Exception as error:
        raise _explain(error, tracer.failed_path, model) from error
    _attach_meta_to_node_if_not_exist(module)
    return FloatGraph(module=module, scopes=dict(tracer.node_name_to_scope), folded={}, how="fx")


def _folded_batch_norms(before: GraphModule, fused: GraphModule) -> dict[str, str]:
    """Batch norms that fusing took out of the graph, by the path of the layer that they follow."""
    kept = {node.target for node in fused.graph.nodes if node.op == "call_module"}
    return {
        str(node.args[0].target): str(node.target)
        for node in before.graph.nodes
        if node.op == "call_module"
        and node.target not in kept
        and isinstance(before.get_submodule(str(node.target)), _BATCH_NORMS)
    }


def _few(names: Iterable[str], count: int = 12) -> str:
    """The first names of a list that may be long."""
    listed = list(names)
    return ", ".join([*listed[:count], "..."] if len(listed) > count else listed)


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
        hint=f"list {path!r} under model.leaf_modules to keep it whole in fp32, "
        "or rewrite the line without control flow that depends on tensor values, or capture the "
        "model by torch.export (model.capture: export)"
        if path
        else "rewrite the line without control flow that depends on tensor values, "
        "or move it into a submodule and list that under model.leaf_modules, or capture the "
        "model by torch.export (model.capture: export)",
    )
