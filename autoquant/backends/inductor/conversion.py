"""Export, prepare, fill and convert: a plan as a graph of quantize and dequantize ops."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from autoquant.backends.inductor.quantizer import to_quantizer
from autoquant.backends.inductor.torchao import pt2e
from autoquant.core.plan import Plan
from autoquant.core.quiet import quiet
from autoquant.errors import BackendError, ModelError, first_line
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.places import said_of

MARK = "autoquant"
"""Key in a node's `custom` metadata, which torch.compile carries to the end: a site's name."""

_WEIGHTED = frozenset({torch.ops.aten.conv2d.default, torch.ops.aten.linear.default})


class _Call(NamedTuple):
    """One call of a weighted module: its site, and the tensor that it reads."""

    site: str
    reads: str


def export_model(model: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """Export a model with an open batch dimension."""
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
    with quiet(), torch.no_grad():
        try:
            return torch.export.export(model, example, dynamic_shapes=shapes)
        except Exception as error:
            raise ModelError(
                f"torch.export cannot export the model: {said_of(error)}",
                hint="rewrite what it names, or search with backend.name: torch",
            ) from error


def convert_plan(
    program: ExportedProgram, plan: Plan, captured: Capture, ranges: TensorRanges
) -> GraphModule:
    """Quantize an exported float model as a plan says, without calibrating.

    Returns:
        The converted graph; the call of a weighted site has its name under `MARK`.
    """
    flow = pt2e().flow
    with quiet(), torch.no_grad():
        try:
            prepared = flow.prepare_pt2e(
                copy.deepcopy(program).module(),
                to_quantizer(plan, captured.sites, ranges.weight_bits),
            )
            calls = _match_calls(prepared, captured)
            _fill(prepared, calls, ranges)
            for node, call in calls.items():
                node.meta["custom"] = {MARK: call.site}
            converted: GraphModule = flow.convert_pt2e(prepared)
        except (ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
            raise BackendError(
                f"inductor: torchao refuses plan {plan.digest}: {first_line(error)}",
                hint="write the op that it names otherwise (it takes no padding='same', and no "
                "Conv2d that is called twice), or search another backend",
            ) from error
    return converted


def _match_calls(prepared: GraphModule, captured: Capture) -> dict[Node, _Call]:
    """Find each call of a weighted module in the exported graph, by module path and order."""
    waiting = {path: list(found) for path, found in _captured_calls(captured).items()}
    calls = {}
    for node in prepared.graph.nodes:
        if node.target not in _WEIGHTED:
            continue
        path = _innermost(node)
        if waiting.get(path):
            calls[node] = waiting[path].pop(0)
    lost = [path for path, found in waiting.items() if found]
    if lost:
        raise ValueError(f"module {lost[0]} is not in the exported program")
    return calls


def _captured_calls(captured: Capture) -> Mapping[str, list[_Call]]:
    """By module path, its calls in graph order."""
    return {
        site.module: [
            _Call(site.name, captured.nodes[group[0]].all_input_nodes[0].name)
            for group in captured.members[site.name]
        ]
        for site in captured.sites
        if site.function is None and site.kind.value in ("conv2d", "linear")
    }


def _innermost(node: Node) -> str:
    """Path of the module whose forward made a call."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack", {})
    path = str(list(stack.values())[-1][0]) if stack else ""
    return path.removeprefix("L['self'].")


def _fill(prepared: GraphModule, calls: Mapping[Node, _Call], ranges: TensorRanges) -> None:
    """Give every observer what calibration saw, in place of the data that it waits for."""
    observers = pt2e().observer
    for node, observer in _observers(prepared):
        source = node.all_input_nodes[0]
        if source.op == "get_attr":
            observer(_parameter(prepared, str(source.target)))
        elif not isinstance(observer, observers.PlaceholderObserver):
            readers = {calls[user].reads for user in node.users}
            if len(readers) != 1:
                raise ValueError(f"{node.name} observes {', '.join(sorted(readers)) or 'nothing'}")
            known = _known_scale(observer, ranges.int8(readers.pop()))
            prepared.set_submodule(str(node.target), known)


def _known_scale(observer: Any, found: tuple[float, float]) -> nn.Module:
    """An observer that knows its range."""
    low, high = found
    steps = observer.quant_max - observer.quant_min
    scale = (high - low) / steps
    known: nn.Module = pt2e().observer.FixedQParamsObserver(
        scale=scale,
        zero_point=observer.quant_min + round(-low / scale),
        dtype=observer.dtype,
        qscheme=observer.qscheme,
        quant_min=observer.quant_min,
        quant_max=observer.quant_max,
    )
    return known


def _observers(prepared: GraphModule) -> Iterator[tuple[Node, Any]]:
    for node in list(prepared.graph.nodes):
        if node.op == "call_module":
            module = prepared.get_submodule(str(node.target))
            if isinstance(module, pt2e().observer.ObserverBase):
                yield node, module


def _parameter(prepared: GraphModule, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    found: Tensor = getattr(prepared.get_submodule(owner), name)
    return found.detach()
