"""The captured float graph as torch.export's program, for engines that convert from there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from autoquant.errors import ModelError
from autoquant.model.calling import key_name
from autoquant.model.captured import Capture
from autoquant.model.exporting import grown
from autoquant.model.node_shapes import tensor_meta

_ORIGIN = "autoquant"
"""Key in a node's `custom` metadata, which torch.export carries along."""


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """How an engine's tensors become the outputs of a model.

    Attributes:
        structure: Of the model's outputs.
        places: By leaf of the structure, which tensor of the engine it is; -1 where it is none.
        constants: By leaf, what is no tensor: None, numbers, strings.
        names: Of the engine's tensors: keys and fields that lead to them in the structure.
    """

    structure: pytree.TreeSpec
    places: tuple[int, ...]
    constants: tuple[Any, ...]
    names: tuple[str, ...]

    def nest(self, tensors: Sequence[Tensor]) -> Any:
        """Give the model's outputs.

        Args:
            tensors: As many as `names`.
        """
        leaves = [
            constant if place < 0 else tensors[place]
            for place, constant in zip(self.places, self.constants, strict=True)
        ]
        return pytree.tree_unflatten(leaves, self.structure)


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A captured graph, exported.

    Attributes:
        program: In ATen ops; it gives a tuple of tensors, each once.
        origin: By node of the program, the node of the captured graph that it comes from: a key
            of the calibration statistics, and a member of a site.
        outputs: How the tensors become the model's outputs.
    """

    program: ExportedProgram
    origin: Mapping[str, str]
    outputs: Outputs


class _Traced(nn.Module):
    """Runs a graph node by node, so that each op of the export knows which one it comes from."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.traced = graph

    def forward(self, *inputs: Tensor) -> Any:
        with torch.fx.traceback.preserve_node_meta():
            return Interpreter(self.traced).run(*inputs)


def flat_graph(captured: Capture) -> tuple[GraphModule, Outputs]:
    """Copy a captured graph so that it gives a tuple of tensors, each once.

    Raises:
        ModelError: The model gives no tensor, or a number that depends on its inputs.
    """
    graph = Graph()
    made: dict[Node, Node] = {}
    graph.graph_copy(captured.graph.graph, made)
    written = next(node for node in captured.graph.graph.nodes if node.op == "output").args[0]
    leaves, structure = _leaves(captured.graph, written)
    tensors: dict[Node, int] = {}
    for leaf in leaves:
        if isinstance(leaf, Node):
            if tensor_meta(leaf) is None and leaf.op != "get_attr":
                raise ModelError(
                    f"an output of the model ({leaf.name}) is a number that depends on its inputs",
                    hint="return it as a tensor, or leave it out",
                )
            tensors.setdefault(leaf, len(tensors))
    if not tensors:
        raise ModelError("the model gives no tensor", hint="return one from forward")
    graph.output(tuple(made[node] for node in tensors))
    places = tuple(tensors[leaf] if isinstance(leaf, Node) else -1 for leaf in leaves)
    constants = tuple(None if isinstance(leaf, Node) else leaf for leaf in leaves)
    names = _names(structure, places)
    for node, copied in made.items():
        copied.meta["custom"] = {_ORIGIN: node.name}
    return GraphModule(captured.graph, graph), Outputs(structure, places, constants, names)


def _leaves(module: GraphModule, written: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """What a graph gives, flat, and how its own code nests it."""
    info = getattr(module.graph._codegen, "pytree_info", None)
    if info is not None and info.out_spec is not None:
        return list(written), info.out_spec
    return pytree.tree_flatten(written)


def _names(structure: pytree.TreeSpec, places: Sequence[int]) -> tuple[str, ...]:
    """A name for each tensor, from the keys that lead to it; a number where there is no key."""
    nested = pytree.tree_unflatten(list(places), structure)
    found: dict[int, str] = {}
    for path, place in pytree.tree_leaves_with_path(nested):
        name = ".".join(map(key_name, path))
        found.setdefault(place, f"output_{name}" if name[:1].isdigit() else name or "output")
    return tuple(found[place] for place in range(max(places) + 1))


def export_float(
    captured: Capture, example: tuple[Tensor, ...], *, any_size: bool = True
) -> Exported:
    """Export the captured float graph.

    Args:
        captured: The captured model.
        example: One batch.
        any_size: Leave the axes open that the capture does; else only the example's shapes fit.

    Raises:
        ModelError: torch.export refuses it.
    """
    graph, outputs = flat_graph(captured)
    program = _export(_Traced(graph).eval(), captured, example, any_size=any_size)
    return Exported(program, origins(program.graph), outputs)


def _export(
    module: nn.Module, captured: Capture, example: tuple[Tensor, ...], *, any_size: bool
) -> ExportedProgram:
    failure: Exception | None = None
    free = captured.dynamic if any_size else ((),) * len(example)
    inputs = tuple(grown(tensor, axes) for tensor, axes in zip(example, free, strict=True))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for dim in (Dim.DYNAMIC, Dim.AUTO):
            shapes = tuple(dict.fromkeys(axes, dim) or None for axes in free)
            try:
                return torch.export.export(module, inputs, dynamic_shapes=(shapes,), strict=False)
            except Exception as error:  # noqa: BLE001  torch.export raises whatever a model raises
                failure = failure or error
    raise ModelError(
        f"torch.export cannot export the model: {str(failure).strip().splitlines()[0]}",
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
