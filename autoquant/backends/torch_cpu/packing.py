"""Weights packed for another engine than the one that converted the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor
from torch.fx import GraphModule

from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.model.torch_ao.conversion import FLOAT_NODE


class _Packed(Protocol):
    """A static or dynamic quantized conv or linear of torch's."""

    def _weight_bias(self) -> tuple[Tensor, Tensor | None]: ...

    def set_weight_bias(self, weight: Tensor, bias: Tensor | None) -> None: ...


def pack_for(model: GraphModule, engines: Mapping[str, str], roots: Mapping[str, str]) -> None:
    """Pack weights for the engines that shall compute with them, in place.

    The quantized weights stay bit for bit what they were.

    Args:
        model: A converted model.
        engines: By site.
        roots: By float node, the site that it is the root of.
    """
    for node in model.graph.nodes:
        engine = engines.get(roots.get(str(node.meta.get(FLOAT_NODE, node.name)), ""))
        if engine is None or node.op != "call_module":
            continue
        module = model.get_submodule(str(node.target))
        if hasattr(module, "set_weight_bias"):
            packed = cast("_Packed", module)
            with using_engine(engine):
                packed.set_weight_bias(*packed._weight_bias())
