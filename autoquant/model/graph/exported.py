"""The captured float graph as torch.export's program, for engines that convert from there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Interpreter, Node

from autoquant.errors import ModelError
from autoquant.model.data.outputs import OutputStructure
from autoquant.model.data.trees import tensors_of
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.exporting import followed_by_export, grown
from autoquant.model.graph.places import said_of
from autoquant.model.graph.scripts import find_scripts

_ORIGIN = "autoquant"
"""Key in a node's `custom` metadata, which torch.export carries along."""


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A captured graph, exported.

    Attributes:
        program: In ATen ops; batch norms that fusing folded are folded here too.
        outputs: How its tensors are put together to what the model returns.
        origin: By node of the program, the node of the captured graph that it comes from: a key
            of the calibration statistics, and a member of a site.
    """

    program: ExportedProgram
    outputs: OutputStructure
    origin: Mapping[str, str]


class _Traced(nn.Module):
    """Runs a graph node by node, so that each op of the export knows which one it comes from.

    It returns the tensors alone.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.traced = graph

    def forward(self, *inputs: Tensor) -> Any:
        with torch.fx.traceback.preserve_node_meta():
            return tuple(tensors_of(_WithHeads(self.traced).run(*inputs)))


class _WithHeads(Interpreter):
    """Gives an attention without heads one, which is all that torch's ONNX exporter writes."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run one op."""
        if target is not torch.ops.aten.scaled_dot_product_attention.default or args[0].ndim != 3:
            return super().call_function(target, args, kwargs)
        args = [
            item.unsqueeze(1) if isinstance(item, Tensor) and item.ndim == 3 else item
            for item in args
        ]
        return super().call_function(target, tuple(args), kwargs).squeeze(1)


def export_float(captured: Capture, example: tuple[Tensor, ...]) -> Exported:
    """Export the captured float graph.

    Raises:
        ModelError: torch.export refuses it.
    """
    program = _export(_Traced(_marked(captured.graph)).eval(), captured, example)
    with torch.no_grad():
        outputs = OutputStructure.of(captured.graph(*example))
    return Exported(program, outputs, origins(program.graph))


def _marked(module: GraphModule) -> GraphModule:
    """The same graph over the same weights, its nodes marked with their names."""
    graph = copy.deepcopy(module.graph)
    for node in graph.nodes:
        mark_origin(node, node)
    return GraphModule(module, graph)


def mark_origin(node: Node, captured: Node) -> None:
    """Note at a node which node of the captured graph it comes from."""
    node.meta["custom"] = {_ORIGIN: captured.name}


def _export(module: nn.Module, captured: Capture, example: tuple[Tensor, ...]) -> ExportedProgram:
    failure: Exception | None = None
    free = captured.dynamic
    inputs = tuple(grown(tensor, axes) for tensor, axes in zip(example, free, strict=True))
    with followed_by_export():
        for dim in (Dim.DYNAMIC, Dim.AUTO):
            shapes = tuple(dict.fromkeys(axes, dim) or None for axes in free)
            try:
                return torch.export.export(module, inputs, dynamic_shapes=(shapes,), strict=False)
            except Exception as error:  # noqa: BLE001  torch.export raises whatever a model raises
                failure = failure or error
    scripts = ", ".join(path.removeprefix("traced.model.") for path in find_scripts(module))
    reason = (
        f"torch makes no graph of its ScriptModules ({scripts})" if scripts else said_of(failure)
    )
    raise ModelError(
        f"torch.export cannot export the model: {reason}",
        hint="engines other than torch need it; search with backend.name: torch, or "
        "rewrite what it names",
    ) from failure


def origins(graph: Graph) -> dict[str, str]:
    """Origin of each node of an exported graph, also after its decompositions were run."""
    return {
        node.name: node.meta["custom"][_ORIGIN]
        for node in graph.nodes
        if _ORIGIN in (node.meta.get("custom") or {})
    }
