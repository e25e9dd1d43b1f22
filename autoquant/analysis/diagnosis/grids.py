"""The integer grid that each tensor of a built plan really lies on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from autoquant.model.capture import Capture
from autoquant.model.numerics import FixedFakeQuantize
from autoquant.model.ranges.grid import Grid
from autoquant.model.torch_ao.conversion import FLOAT_NODE


def read_grids(
    built: GraphModule, captured: Capture, inputs: tuple[Tensor, ...]
) -> Mapping[str, Grid]:
    """Run a few samples and read scale, zero point and limits off every quantized tensor.

    A module that is called twice has one output scale, whatever its calls were calibrated to; so
    scales are read from what runs, not from the statistics.

    Args:
        built: The module of an `Executable`.
        captured: The model that it was built from.
        inputs: One small batch; run with the plan's engine selected.

    Returns:
        By name of the float node that gives the tensor. Tensors that stay in floats are missing.
    """
    ends = {group[0]: group[-1] for groups in captured.members.values() for group in groups}
    known = {node.name for node in captured.graph.graph.nodes}
    spy = _GridSpy(built, ends, known)
    with torch.no_grad():
        spy.run(*inputs)
    return spy.grids


class _GridSpy(Interpreter):
    def __init__(self, built: GraphModule, ends: Mapping[str, str], known: set[str]) -> None:
        super().__init__(built)
        self.grids: dict[str, Grid] = {}
        self._ends = ends
        self._known = known

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        grid = self._grid_of(n, value)
        name = self._tensor_of(n)
        if grid is not None and name is not None:
            self.grids.setdefault(name, grid)
        return value

    def _grid_of(self, node: Node, value: Any) -> Grid | None:
        if isinstance(value, Tensor) and value.is_quantized:
            limits = torch.iinfo(value.int_repr().dtype)
            return Grid(value.q_scale(), value.q_zero_point(), limits.min, limits.max)
        called = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        if isinstance(called, FixedFakeQuantize):
            scale, zero = float(called.scale.reshape(())), int(called.zero_point.reshape(()))
            return Grid(scale, zero, called.low, called.high)
        return None

    def _tensor_of(self, node: Node) -> str | None:
        """The float node that gives the tensor; a rounding stands for what it rounds."""
        name = str(node.meta.get(FLOAT_NODE, ""))
        if name in self._known:
            return self._ends.get(name, name)
        first = node.args[0] if node.args else None
        return self._tensor_of(first) if isinstance(first, Node) else None
