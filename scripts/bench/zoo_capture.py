"""One architecture of the zoo through capture: what it costs, reaches and gives."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree
from zoo_models.subject import Subject

from autoquant.model.data.calling import Calling
from autoquant.model.data.trees import register_dataclasses
from autoquant.model.graph import export_capture
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.functional import functional_graph
from autoquant.model.graph.writes import Writes

Run = Callable[[tuple[Tensor, ...]], Any]

_LARGE = 1e-3
_TRACED = 2
_SIZES = (1, 3)


def capture_subject(subject: Subject) -> dict[str, Any]:
    """Capture a model; compare what the graph gives with what it gives, at other batch sizes.

    The exported graph must be the model bit for bit. Batch norms are then folded into layers,
    which rounds otherwise: how far the folded graph is off is said apart.
    """
    model = subject.model()
    calling, example = Calling.of(subject.batch(_TRACED, seed=2), model)
    dynamic = dynamic_axes(subject, calling, example)
    batches = [Calling.of(subject.batch(size, seed=3 + size), model)[1] for size in _SIZES]
    with torch.no_grad():
        truth = [calling.call(model, batch) for batch in batches]
    register_dataclasses(truth)
    exported: list[GraphModule] = []

    def keep(program: ExportedProgram, writes: Writes) -> GraphModule:
        exported.append(functional_graph(program, writes))
        return functional_graph(program, writes)

    started = time.process_time()
    with mock.patch.object(export_capture, "functional_graph", keep):
        captured = capture(model, example, how="export", calling=calling, dynamic=dynamic)
    seconds = time.process_time() - started
    free = _free_sizes(captured, example, batches)
    error = largest_error(exported[0], free, batches, truth)
    folded_error = largest_error(captured.graph, free, batches, truth)
    reach = captured.reach
    return {
        "seconds": round(seconds, 1),
        "sites": len(captured.sites),
        "nodes": len(captured.graph.graph.nodes),
        "sizes": len(free),
        "error": error,
        "slow_path_error": None
        if error == 0
        else _slow_path_error(exported[0], partial(calling.call, model), batches),
        "folded_error": folded_error,
        "own_rounding": None if folded_error < _LARGE else _own_rounding(model, calling, batches),
        "reach_weights": reach.weights if reach else None,
        "reach_macs": reach.macs if reach else None,
        "unseen": list(reach.unseen) if reach else [],
        "notices": list(captured.notices),
    }


def _slow_path_error(graph: GraphModule, model: Run, batches: list[tuple[Tensor, ...]]) -> float:
    """The error where torch's attention computes op by op, as it does whenever it is exported."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            truth = [model(batch) for batch in batches]
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return largest_error(graph, list(range(len(batches))), batches, truth)


def _own_rounding(model: nn.Module, calling: Calling, batches: list[tuple[Tensor, ...]]) -> float:
    """How far the model in float32 is from itself in float64: how much any rounding grows."""
    exact = copy.deepcopy(model).double()
    found = 0.0
    with torch.no_grad():
        for batch in batches:
            wide = [item.double() if item.is_floating_point() else item for item in batch]
            pairs = zip(
                _leaves(calling.call(model, batch)), _leaves(calling.call(exact, wide)), strict=True
            )
            found = max(found, *(_difference(mine.double(), given) for mine, given in pairs))
    return found


def dynamic_axes(
    subject: Subject, calling: Calling, example: tuple[Tensor, ...]
) -> tuple[tuple[int, ...], ...]:
    """By tensor, axes whose size may change: what the subject names, else the first."""
    return tuple(
        tuple(subject.dynamic.get(name.split(".")[0], (0,) if tensor.ndim else ()))
        for name, tensor in zip(calling.names, example, strict=True)
    )


def _free_sizes(
    captured: Capture, example: tuple[Tensor, ...], batches: list[tuple[Tensor, ...]]
) -> list[int]:
    """Places of the batches that the graph takes: all, or those of the size that it fixed."""
    return [
        place
        for place, batch in enumerate(batches)
        if all(
            given == seen or axis in axes
            for tensor, traced, axes in zip(batch, example, captured.dynamic, strict=True)
            for axis, (given, seen) in enumerate(zip(tensor.shape, traced.shape, strict=True))
        )
    ]


def largest_error(
    graph: Any, places: list[int], batches: list[tuple[Tensor, ...]], truth: list[Any]
) -> float:
    """Largest difference of any output, over the largest value of that output."""
    found = 0.0
    with torch.no_grad():
        for place in places:
            ours, theirs = _leaves(graph(*batches[place])), _leaves(truth[place])
            if len(ours) != len(theirs):
                raise ValueError(f"{len(ours)} outputs where the model gives {len(theirs)}")
            for mine, given in zip(ours, theirs, strict=True):
                found = max(found, _difference(mine, given))
    return found


def _difference(mine: Tensor, given: Tensor) -> float:
    if mine.shape != given.shape or mine.dtype != given.dtype:
        raise ValueError(f"{mine.dtype} {tuple(mine.shape)}, not {given.dtype} {given.shape}")
    if torch.equal(mine, given) or mine.numel() == 0:
        return 0.0
    if not given.is_floating_point():
        return 1.0
    finite = torch.isfinite(given)
    if not torch.equal(finite, torch.isfinite(mine)):
        return float("inf")
    largest = given[finite].abs().max().clamp(min=1e-12)
    return float((mine[finite] - given[finite]).abs().max() / largest)


def _leaves(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
