"""Capture by torch.export: one functional graph, and the sites in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.shape_prop import ShapeProp

from autoquant.errors import ModelError
from autoquant.model.data.calling import Calling
from autoquant.model.graph.captured import NOTHING_TO_CHOOSE, Capture
from autoquant.model.graph.constants import split_constants
from autoquant.model.graph.exporting import export_program, free_axes, uncollected
from autoquant.model.graph.float_model import paths_within
from autoquant.model.graph.folding import fold_batch_norms, name_linear_layers
from autoquant.model.graph.functional import functional_graph
from autoquant.model.graph.masks import MaskedNodes
from autoquant.model.graph.node_shapes import is_float
from autoquant.model.graph.reach import find_reach
from autoquant.model.graph.site_walk import SiteWalk


@uncollected()
def capture_export(
    model: nn.Module,
    example: tuple[Tensor, ...],
    leaf_modules: Sequence[str],
    calling: Calling,
    dynamic: Sequence[Sequence[int]],
) -> Capture:
    """Export a model and list its sites, named by the paths of its modules.

    What a module computes alone is named by its path, other ops by `path:op:index`. Dead code,
    checks and dropout are left out; what depends on no input is computed once (normed weights,
    masks, positions), and batch norms are folded into the layer before them.

    Args:
        model: Float model in eval mode; never changed.
        example: The tensors of one batch.
        leaf_modules: Paths not to look into; what they hold stays in fp32.
        calling: How the model takes them.
        dynamic: By tensor, axes whose size may change.

    Raises:
        ModelError: The model cannot be exported or run on the example, or holds nothing to
            quantize.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    within = paths_within(modules, leaf_modules)
    program, writes, guards = export_program(model, calling, example, dynamic)
    free = free_axes(program)
    graph = functional_graph(program, writes)
    del program
    folded = fold_batch_norms(graph)
    name_linear_layers(graph)
    weights = split_constants(graph)
    masked = _give_shapes(graph, example)
    walk = SiteWalk(graph, modules, within, masked.names, batch=_samples(example, dynamic))
    for node in graph.graph.nodes:
        walk.visit(node)
    if not walk.sites:
        raise ModelError(
            "the model has no op that a scheme could be chosen for", hint=NOTHING_TO_CHOOSE
        )
    members = {
        name: tuple(tuple(group) for group in groups) for name, groups in walk.members.items()
    }
    reach = find_reach(graph, members)
    return Capture(
        how="export",
        leaf_modules=tuple(leaf_modules),
        graph=graph,
        sites=tuple(walk.sites.values()),
        agreements=tuple(walk.agreements),
        members=members,
        no_tensors=frozenset(node.name for node in graph.graph.nodes if not is_float(node)),
        folded=folded,
        calling=calling,
        dynamic=free,
        weights=weights,
        reach=reach,
        guards=guards,
        notices=tuple(_notices(writes.inputs, calling, dynamic, free, example, reach.notice)),
    )


class _Shapes(ShapeProp):
    """Runs the graph on real inputs; notes shapes, and what masks fill."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.masked = MaskedNodes()

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            self.masked.take(n, value)
        return value


def _give_shapes(graph: GraphModule, example: tuple[Tensor, ...]) -> MaskedNodes:
    """Run the example; shapes stand at the nodes afterwards.

    Raises:
        ModelError: The graph fails on it.
    """
    shapes = _Shapes(graph)
    try:
        with torch.no_grad(), redirect_stderr(StringIO()):  # ShapeProp prints what it raises
            shapes.propagate(*example)
    except Exception as error:
        sizes = ", ".join(str(tuple(item.shape)) for item in example)
        raise ModelError(
            f"the exported model failed on the example inputs of shape {sizes}: "
            f"{error.__cause__ or error}",
            hint="give batches of the shape and dtype that model.forward takes",
        ) from error
    return shapes.masked


def _samples(example: Sequence[Tensor], dynamic: Sequence[Sequence[int]]) -> int:
    """Samples of a batch: the first dynamic axis of the first tensor that has one."""
    for tensor, axes in zip(example, dynamic, strict=True):
        if axes:
            return int(tensor.shape[axes[0]])
    return 1


def _notices(
    writes: bool,
    calling: Calling,
    wanted: Sequence[Sequence[int]],
    free: Sequence[Sequence[int]],
    example: Sequence[Tensor],
    reach: str | None,
) -> list[str]:
    """What a user should know of a capture."""
    found = []
    if writes:
        found.append(
            "the model's forward writes into its inputs; what is built computes the same and "
            "leaves them as they are."
        )
    for name, sizes in fixed_sizes(calling, wanted, free, example).items():
        found.append(f"the model is captured at one size of {name} alone ({sizes}).")
    if reach is not None:
        found.append(reach)
    return found


def fixed_sizes(
    calling: Calling,
    wanted: Sequence[Sequence[int]],
    free: Sequence[Sequence[int]],
    example: Sequence[Tensor],
) -> dict[str, str]:
    """By input, the axes that should be open and are not, with their sizes, in words."""
    found = {}
    for name, asked, left, tensor in zip(calling.names, wanted, free, example, strict=True):
        fixed = [axis for axis in asked if axis not in left]
        if fixed:
            found[name] = ", ".join(f"axis {axis} at {tensor.shape[axis]}" for axis in fixed)
    return found
