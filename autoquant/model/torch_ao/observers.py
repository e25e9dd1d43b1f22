"""Torch's own observers over cached statistics: the same scale and zero point, without data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    FixedQParamsObserver,
    ObserverBase,
    PlaceholderObserver,
)
from torch.fx import GraphModule, Node

from autoquant.core.ranges import FixedRange
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.model.torch_ao.range_observers import fill, fixed_scale, signature


class ScaleCache:
    """Scale and zero point of every tensor under every observer, each computed once.

    Args:
        statistics: What calibration saw.
        fixed: By node name, ranges that are known beforehand, whatever it saw.
    """

    def __init__(
        self, statistics: CalibrationStatistics, fixed: Mapping[str, FixedRange] | None = None
    ) -> None:
        self._statistics = statistics
        self._fixed = dict(fixed or {})
        self._known: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        self._shared = {
            name: key.split("+")
            for key in statistics.tensors
            if "+" in key
            for name in key.split("+")
        }

    def scale(self, observer: ObserverBase, tensors: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Scale and zero point that `observer` would find, had it seen these tensors.

        Args:
            observer: A freshly prepared HistogramObserver or MinMaxObserver.
            tensors: Node names of the tensors that it observes, in execution order.
        """
        key = (*signature(observer), tuple(tensors))
        if key not in self._known:
            fixed = next((self._fixed[name] for name in tensors if name in self._fixed), None)
            if fixed is None:
                fill(observer, self.find(tensors))
                self._known[key] = observer.calculate_qparams()
            else:
                self._known[key] = fixed_scale(observer, fixed.low, fixed.high)
        return self._known[key]

    def sharing(self, tensor: str) -> Sequence[str]:
        """All tensors that share an observer with this one, when all of them are quantized."""
        return self._shared.get(tensor, [tensor])

    def find(self, tensors: Sequence[str]) -> TensorStatistics:
        """Statistics of one tensor, or of those that share an observer.

        Raises:
            ValueError: Calibration did not foresee that these tensors share an observer.
        """
        names = list(dict.fromkeys(tensors))
        found = self._statistics.tensors.get("+".join(names))
        if found is None:
            raise ValueError(f"no statistics for the tensors {names} under one observer")
        return found


class KnownScale(ObserverBase):
    """Stands in for an observer whose scale is already known."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, like: ObserverBase, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__(dtype=like.dtype)
        self.qscheme = getattr(like, "qscheme", torch.per_tensor_affine)
        self.quant_min: int = getattr(like, "quant_min", 0)
        self.quant_max: int = getattr(like, "quant_max", 0)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Pass the tensor on."""
        return x

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Give scale and zero point."""
        return self.scale, self.zero_point


def observers_of(prepared: GraphModule) -> dict[str, list[Node]]:
    """List, for every activation observer of a prepared model, the nodes that it observes.

    Several attributes may hold the same observer (an op that hands its scale on); the first
    one's name stands for it.
    """
    first_name: dict[int, str] = {}
    observed: dict[str, list[Node]] = {}
    for node in prepared.graph.nodes:
        if node.op != "call_module":
            continue
        module = prepared.get_submodule(str(node.target))
        if isinstance(module, ObserverBase):
            name = first_name.setdefault(id(module), str(node.target))
            observed.setdefault(name, []).append(observed_tensor(prepared, node))
    return observed


def observed_tensor(prepared: GraphModule, node: Node) -> Node:
    """Follow a chain of observers up to the node whose tensor they see."""
    source = node
    while source.op == "call_module" and isinstance(
        prepared.get_submodule(str(source.target)), ObserverBase
    ):
        source = source.args[0]  # type: ignore[assignment]
    return source


def fill_observers(prepared: GraphModule, cache: ScaleCache) -> None:
    """Give every observer of a freshly prepared model its known scale, in place."""
    for name, nodes in observers_of(prepared).items():
        observer = prepared.get_submodule(name)
        if isinstance(observer, (PlaceholderObserver, FixedQParamsObserver)):
            continue
        if not isinstance(observer, ObserverBase):
            raise ValueError(f"{name} is a {type(observer).__name__}, not an observer")
        if nodes[0].op == "get_attr":
            observer(_attribute(prepared, str(nodes[0].target)))
            continue
        scale, zero_point = cache.scale(observer, [node.name for node in nodes])
        replace_observer(prepared, observer, KnownScale(observer, scale, zero_point))


def _attribute(module: GraphModule, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    found: Tensor = getattr(module.get_submodule(owner), name)
    return found


def replace_observer(prepared: GraphModule, old: ObserverBase, new: nn.Module) -> None:
    """Put `new` wherever `old` is called."""
    targets: Iterable[str] = {
        str(node.target)
        for node in prepared.graph.nodes
        if node.op == "call_module" and prepared.get_submodule(str(node.target)) is old
    }
    for target in targets:
        prepared.set_submodule(target, new)
