"""The integer grid that each tensor of a built plan really lies on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from autoquant.core.plan import Plan
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.built_graph import FLOAT_NODE, GRID, ROUNDS, holds
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounding import SchemeRounding


def planned_grids(marked: SiteNodes, plan: Plan, rounding: SchemeRounding) -> Mapping[str, Grid]:
    """Give the grids on which a plan's sites read.

    Returns:
        By name of the float node that gives the tensor. Tensors that no site rounds to a fixed
        grid are missing; of two grids for one tensor the first reader's is taken.
    """
    found: dict[str, Grid] = {}
    for root, site in marked.roots.items():
        for source in marked.operands[root].reads:
            how = rounding.read_format(site, plan[site.name], source.name)
            if isinstance(how, Grid) and source.op != "get_attr":
                found.setdefault(source.name, how)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class BuiltGrids:
    """The grids of a built plan's tensors.

    Attributes:
        by_tensor: By name of the float node that gives it. Tensors that stay in floats are
            missing.
        written: Names of those that an op gives as integers, to whoever reads them.
    """

    by_tensor: Mapping[str, Grid]
    written: frozenset[str] = frozenset()


def read_grids(built: GraphModule, inputs: tuple[Tensor, ...]) -> BuiltGrids:
    """Run a few samples, with the plan's engine selected, and read every integer tensor's grid."""
    spy = _GridSpy(built)
    with torch.no_grad():
        spy.run(*inputs)
    return BuiltGrids(spy.grids, frozenset(spy.written))


def grid_of(node: Node, value: Any) -> Grid | None:
    """The grid that what a node gave lies on: the tensor's own, or the one noted at the node."""
    if isinstance(value, Tensor) and value.is_quantized:
        limits = torch.iinfo(value.int_repr().dtype)
        return Grid(value.q_scale(), value.q_zero_point(), limits.min, limits.max)
    found: Grid | None = node.meta.get(GRID)
    return found


class _GridSpy(Interpreter):
    def __init__(self, built: GraphModule) -> None:
        super().__init__(built)
        self.grids: dict[str, Grid] = {}
        self.written: set[str] = set()

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        grid = grid_of(n, value) if n.op != "get_attr" else None
        if grid is not None:
            for name in holds(n):
                self.grids.setdefault(name, grid)
                if FLOAT_NODE in n.meta:
                    self.written.add(name)
        for name, rounded in n.meta.get(ROUNDS, {}).items():
            self.grids.setdefault(name, rounded)
        return value
