"""A plan as a graph to train: what conversion would quantize is rounded, gradients pass through."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    FixedQParamsObserver,
    ObserverBase,
    PlaceholderObserver,
)
from torch.fx import GraphModule, Node

from autoquant.model.ranges.grid import Grid
from autoquant.model.straight_through import straight_through
from autoquant.model.torch_ao.observers import ScaleCache, observers_of, replace_observer
from autoquant.model.torch_ao.rounding import Cast, DynamicGrid, Format, round_on_its_grid

_BFLOAT16 = Cast(torch.bfloat16)


class FakeQuantize(nn.Module):
    """Rounds activations as a number format does; gradients pass, but not where it clips.

    Args:
        rounding: The format.
    """

    def __init__(self, rounding: Format) -> None:
        super().__init__()
        self.rounding = rounding

    def forward(self, value: Tensor) -> Tensor:
        """Round each element; shape as given."""
        return round_straight(self.rounding, value)

    def extra_repr(self) -> str:
        """The format, for printing a model."""
        return str(self.rounding)


class FakeQuantizeParameter(nn.Module):
    """Rounds a parameter that a function reads, to the grid that its observer finds each time."""

    def __init__(self, observer: ObserverBase) -> None:
        super().__init__()
        self._fresh = [observer]  # in a list: its state is no part of the model's

    def forward(self, value: Tensor) -> Tensor:
        """Round each element; shape as given."""
        return straight_through(value, self._round)

    def _round(self, value: Tensor) -> Tensor:
        return round_on_its_grid(value, copy.deepcopy(self._fresh[0]))


def round_straight(rounding: Format, value: Tensor) -> Tensor:
    """Round with the straight-through gradient; a fixed grid passes none where it clips."""
    if isinstance(rounding, Grid):
        half = rounding.scale / 2
        return straight_through(value, rounding, (rounding.lowest - half, rounding.highest + half))
    return straight_through(value, rounding)


def fake_quantize(prepared: GraphModule, cache: ScaleCache) -> None:
    """Put a fake-quantize in the place of every observer of a prepared model, in place.

    Args:
        prepared: Freshly from `prepare`.
        cache: Scales by tensor.
    """
    for name, nodes in observers_of(prepared).items():
        observer = prepared.get_submodule(name)
        if not isinstance(observer, ObserverBase):
            raise ValueError(f"{name} is a {type(observer).__name__}, not an observer")
        replace_observer(prepared, observer, _stand_in(observer, nodes, cache))


def cast_through_bfloat16(
    prepared: GraphModule, groups: Iterable[tuple[str, ...]], no_tensors: frozenset[str]
) -> None:
    """Round what bf16 ops read and write to bf16, in place; they compute in fp32.

    Args:
        prepared: A graph of float modules and fake-quantizes.
        groups: Names of the nodes that run as one op: the root first, its output last.
        no_tensors: Names of the nodes that give no floating tensor.
    """
    nodes = {node.name: node for node in prepared.graph.nodes}
    prepared.add_submodule("bfloat16_cast", FakeQuantize(_BFLOAT16))
    for names in groups:
        root, last = nodes[names[0]], nodes[names[-1]]
        for source in root.all_input_nodes:
            if source.name not in no_tensors:
                with prepared.graph.inserting_before(root):
                    cast = prepared.graph.call_module("bfloat16_cast", (source,))
                root.replace_input_with(source, cast)
        _cast_output(prepared, last)
    prepared.graph.lint()
    prepared.recompile()


def _cast_output(prepared: GraphModule, last: Node) -> None:
    readers = list(last.users)
    with prepared.graph.inserting_after(last):
        cast = prepared.graph.call_module("bfloat16_cast", (last,))
    for reader in readers:
        reader.replace_input_with(last, cast)


def _stand_in(observer: Any, nodes: list[Node], cache: ScaleCache) -> nn.Module:
    """What rounds as the converted model does in an observer's place."""
    if isinstance(observer, PlaceholderObserver):
        return _placeholder(observer)
    if isinstance(observer, FixedQParamsObserver):
        scale, zero_point = observer.scale, observer.zero_point
    elif nodes[0].op == "get_attr":
        return FakeQuantizeParameter(observer)
    else:
        scale, zero_point = cache.scale(observer, [node.name for node in nodes])
    return FakeQuantize(
        Grid(
            scale=float(scale.reshape(()).float()),
            zero_point=int(zero_point.reshape(())),
            low=observer.quant_min,
            high=observer.quant_max,
        )
    )


def _placeholder(observer: PlaceholderObserver) -> nn.Module:
    """Dynamic kernels round to the batch's own grid, fp16 is a cast; the others read fp32."""
    if observer.is_dynamic:
        is_integer = observer.dtype in (torch.quint8, torch.qint8)
        return FakeQuantize(DynamicGrid()) if is_integer else nn.Identity()
    return FakeQuantize(Cast(torch.float16)) if observer.dtype is torch.float16 else nn.Identity()
