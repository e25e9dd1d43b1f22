"""The scales of a search in the observers of a prepared model, in place of calibrating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FixedQParamsObserver, ObserverBase, PlaceholderObserver
from torch.fx import GraphModule, Node

from autoquant.model.calibration.ranges.grid import Grid, affine_grid, symmetric_grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.tensor_paths import take
from autoquant.torch_ao.matching import Matched


class KnownScale(ObserverBase):
    """Stands in for an observer whose scale is already known.

    It rounds what torch has no kernel for: `convert_fx` leaves observers of int16 where they are.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, like: ObserverBase, grid: Grid) -> None:
        super().__init__(dtype=like.dtype)
        self.qscheme = getattr(like, "qscheme", torch.per_tensor_affine)
        self.quant_min, self.quant_max = grid.low, grid.high
        self.register_buffer("scale", torch.tensor([grid.scale]))
        self.register_buffer("zero_point", torch.tensor([grid.zero_point]))
        self._grid = grid

    @property
    def rounds(self) -> bool:
        """Whether it stands for a format that torch only simulates."""
        return self.dtype is torch.int16

    def forward(self, x: Tensor) -> Tensor:
        """Pass the tensor on, rounded where no kernel does it."""
        return self._grid(x) if self.rounds else x

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Give scale and zero point."""
        return self.scale, self.zero_point


class UnseenTensorError(ValueError):
    """torch.ao observes a tensor that calibration did not see: one within a site.

    Attributes:
        node: Its node in the prepared graph.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(f"calibration did not see the tensor {node.name}")
        self.node = node


def fix_scales(prepared: GraphModule, matched: Matched, ranges: TensorRanges) -> None:
    """Give the observers of a prepared model the grids of their tensors, in place.

    An observer that torch lets several tensors share (a pool and its input, the parts of a
    concatenation) gets the grid that spans all of theirs.

    Raises:
        UnseenTensorError: It observes a tensor that calibration did not see.
    """
    for observer, nodes in activation_observers(prepared):
        if isinstance(observer, PlaceholderObserver):
            continue
        if nodes[0].op == "get_attr":
            observer(take(prepared, str(nodes[0].target)))
            continue
        grid = _shared_grid(observer, nodes, matched, ranges)
        if isinstance(observer, FixedQParamsObserver) and grid == _grid_of(observer):
            continue  # torch's lowering of a sigmoid asks for this very class
        replace_observer(prepared, observer, KnownScale(observer, grid))


def _shared_grid(
    observer: ObserverBase, nodes: Sequence[Node], matched: Matched, ranges: TensorRanges
) -> Grid:
    is_wide = observer.dtype is torch.int16
    keys = dict.fromkeys(matched.tensors.get(node.name, "") for node in nodes)
    known = [key for key in keys if key and ranges.knows(key)]
    if not known:
        raise UnseenTensorError(nodes[0])
    grids = [ranges.int16_grid(key) if is_wide else ranges.int8_grid(key) for key in known]
    if all(grid == grids[0] for grid in grids):
        return grids[0]
    ends = min(grid.lowest for grid in grids), max(grid.highest for grid in grids)
    return symmetric_grid(ends) if is_wide else affine_grid(ends, grids[0].high)


def activation_observers(prepared: GraphModule) -> list[tuple[ObserverBase, list[Node]]]:
    """Every activation observer, and the nodes whose tensors it sees."""
    found: dict[int, tuple[ObserverBase, list[Node]]] = {}
    for node in prepared.graph.nodes:
        module = _observer_at(prepared, node)
        if module is None:
            continue
        source = node
        while _observer_at(prepared, source) is not None:
            source = source.args[0]
        found.setdefault(id(module), (module, []))[1].append(source)
    return list(found.values())


def _observer_at(prepared: GraphModule, node: Node) -> ObserverBase | None:
    if node.op != "call_module":
        return None
    module = prepared.get_submodule(str(node.target))
    return module if isinstance(module, ObserverBase) else None


def _grid_of(observer: FixedQParamsObserver) -> Grid:
    low, high = int(observer.quant_min), int(observer.quant_max)
    return Grid(float(observer.scale), int(observer.zero_point), low, high)


def replace_observer(prepared: GraphModule, old: ObserverBase, new: nn.Module) -> None:
    """Put `new` wherever `old` is called."""
    for node in prepared.graph.nodes:
        if _observer_at(prepared, node) is old:
            prepared.set_submodule(str(node.target), new)
