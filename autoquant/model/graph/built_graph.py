"""What the nodes of a graph that a backend built say of the float graph: keys of their meta."""

from __future__ import annotations

from torch.fx import Node

from autoquant.model.calibration.ranges.grid import Grid

FLOAT_NODE = "float_node"
"""Name of the float node that a node computes; none where it only converts or holds a constant."""

HOLDS = "holds"
"""Names of the float nodes whose value a node gives, in whatever format."""

GRID = "grid"
"""The `Grid` of the integers that a node gives, or of the floats that it rounds to them."""

ROUNDS = "rounds"
"""By name of a float node that a node reads in floats, the `Grid` that its kernel rounds it to."""


def holds(node: Node) -> tuple[str, ...]:
    """Names of the float nodes whose value a node of a built graph gives."""
    found: tuple[str, ...] = node.meta.get(HOLDS, ())
    return found


def let_hold(node: Node, name: str, grid: Grid | None = None) -> None:
    """Note at a node of a built graph that it gives the value of a float node, on a grid."""
    node.meta[HOLDS] = tuple(dict.fromkeys((*holds(node), name)))
    if grid is not None:
        node.meta.setdefault(GRID, grid)


def let_round(node: Node, name: str, grid: Grid) -> None:
    """Note at a node of a built graph that its kernel rounds a float node that it reads."""
    node.meta[ROUNDS] = {**node.meta.get(ROUNDS, {}), name: grid}
