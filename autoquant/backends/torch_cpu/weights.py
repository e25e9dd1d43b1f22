"""Weights of the float graph, rounded as schemes ask for; each once for all plans."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.backends.torch_cpu.packed_weights import PackedWeight, Recipe
from autoquant.core.precision import Precision
from autoquant.model.graph.tensor_paths import take
from autoquant.model.numerics.weight_grids import INT8_LEVELS, LEVELS, WeightGrid

_LEAST_SCALE = torch.finfo(torch.float32).eps


class WeightStore:
    """Gives the constants of a float graph, rounded, cast and packed; remembers them."""

    def __init__(self, graph: GraphModule, int8_bits: int = 8) -> None:
        self._graph = graph
        self._int8_bits = int8_bits
        self._known: dict[Hashable, Tensor] = {}
        self._packed: WeakValueDictionary[Hashable, PackedWeight] = WeakValueDictionary()
        self._lasting: list[PackedWeight] = []

    def value(self, node: Node) -> Tensor:
        """The float tensor of a constant, detached."""
        found: Tensor = take(self._graph, str(node.target))
        return found.detach()

    def made(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What was made under a key before, or what is made now."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def packed(self, key: Hashable, recipe: Callable[[], Recipe]) -> PackedWeight:
        """The packed weight of a key, packed at the first call.

        Integer weights stay for all plans; floats, which are large and packed soon, as long as a
        plan has them.

        Raises:
            RuntimeError: The engine refuses it.
        """
        found = self._packed.get(key)
        if found is None:
            found = self._packed[key] = PackedWeight(recipe())
            if found.recipe.engine:
                self._lasting.append(found)
        return found

    def quantized(self, node: Node, *, per_channel: bool) -> Tensor:
        """The weight as qint8, symmetric."""
        key = ("qint8", str(node.target), per_channel)
        bits = self._int8_bits
        return self.made(key, lambda: _quantize(self.value(node), bits, per_channel=per_channel))

    def rounded(self, node: Node, precision: Precision, *, per_channel: bool) -> Tensor:
        """The weight rounded to a format, in float32."""

        def make() -> Tensor:
            return round_weight(self.value(node), precision, per_channel=per_channel)

        return self.made((precision, str(node.target), per_channel), make)


def _quantize(weight: Tensor, bits: int, *, per_channel: bool) -> Tensor:
    """Quantize to qint8, symmetric, with a scale for each row or one for all."""
    scale = WeightGrid(0 if per_channel else None, *INT8_LEVELS[bits]).scale(weight)
    if not per_channel:
        return torch.quantize_per_tensor(weight, float(scale), 0, torch.qint8)
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    return torch.quantize_per_channel(weight, scale.double(), zeros, 0, torch.qint8)


def round_weight(weight: Tensor, precision: Precision, *, per_channel: bool) -> Tensor:
    """Round to a format and back to float32."""
    if precision is Precision.FP16:
        return weight.half().float()
    return WeightGrid(0 if per_channel else None, *LEVELS[precision])(weight)


def quantize_table(weight: Tensor) -> Tensor:
    """Quantize a table of embeddings to quint8: an affine scale for each row, its zero in float."""
    low, high = weight.amin(1).clamp(max=0.0), weight.amax(1).clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp_min(_LEAST_SCALE)
    return torch.quantize_per_channel(weight, scale, -low / scale, 0, torch.quint8)
