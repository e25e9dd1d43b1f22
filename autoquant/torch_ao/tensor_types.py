"""Read back from a converted graph in which type every op gets, gives and stores its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized.reference.modules.utils import ReferenceQuantizedModule
from torch.fx import GraphModule, Node

from autoquant.backends.examination import OpTypes, WeightType
from autoquant.torch_ao.readback import Spy, float_name
from autoquant.torch_ao.scales import KnownScale

_SIMULATED = {torch.qint8: "int8", torch.float16: "fp16"}
"""What reference modules round their weights to; they drop the scales of int16."""


def observe_types(spy: Spy) -> dict[str, OpTypes]:
    """Note the types of all tensors of one run.

    Returns:
        By float node; one that the graph lost is missing.
    """
    model: Any = spy.module
    types: dict[Node, str] = {}
    for node, value in spy.values.items():
        types[node] = _type_of(model, node, value, types)
    found: dict[str, OpTypes] = {}
    for node, dtype in types.items():
        name = float_name(node)
        if not name or node.op not in ("call_module", "call_function", "call_method"):
            continue
        if node.target == "dequantize" or _is_rounding(model, node):
            continue
        found[name] = OpTypes(
            inputs=tuple(types[item] for item in _activations(node) if types[item]),
            output=_output(model, node, dtype),
            weight=_weight(model, node),
        )
    return found


def _type_of(model: GraphModule, node: Node, value: Any, before: Mapping[Node, str]) -> str:
    """The type of a node's tensor; empty for what is none."""
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    name = str(first.dtype).removeprefix("torch.") if isinstance(first, Tensor) else ""
    if _is_rounding(model, node):
        return f"int16 in {name}"
    if node.target == "dequantize" and name == "float32":
        stored = before.get(node.all_input_nodes[0], "")
        return f"{stored} in float32" if stored not in ("", name) else name
    return name


def _activations(node: Node) -> list[Node]:
    """Inputs without scales, zero points and weights."""
    return [item for item in node.all_input_nodes if item.op != "get_attr"]


def _is_rounding(model: GraphModule, node: Node) -> bool:
    if node.op != "call_module":
        return False
    module = model.get_submodule(str(node.target))
    return isinstance(module, KnownScale) and module.rounds


def _output(model: GraphModule, node: Node, dtype: str) -> str:
    """Type of what an op gives; a rounding behind an emulated op belongs to it."""
    readers = list(node.users)
    if dtype == "float32" and len(readers) == 1:
        if _is_rounding(model, readers[0]):
            return "int16 in float32"
        if readers[0].target is torch.quantize_per_tensor:
            return f"{str(readers[0].args[3]).removeprefix('torch.')} in float32"
        if readers[0].target == "to" and torch.float16 in readers[0].args:
            return "float16 in float32"
    return dtype


def _weight(model: GraphModule, node: Node) -> WeightType | None:
    if node.op != "call_module":
        return None
    module = model.get_submodule(str(node.target))
    inner: Any = module[0] if isinstance(module, nn.Sequential) else module
    if isinstance(inner, ReferenceQuantizedModule):
        stored = _SIMULATED.get(inner.weight_dtype, "")
        return WeightType(f"{stored} in float32" if stored else "float32")
    if hasattr(inner, "get_weight"):  # a dynamic LSTM or GRU; all its weights are alike
        return WeightType.of(next(iter(inner.get_weight().values())))
    if isinstance(inner, nn.RNNBase):
        return WeightType.of(next(inner.parameters()))
    if getattr(getattr(inner, "_packed_params", None), "dtype", None) is torch.float16:
        return WeightType("float16")
    weight = getattr(inner, "weight", None)
    if callable(weight) and not isinstance(weight, Tensor):
        return WeightType.of(weight())
    if not isinstance(weight, Tensor):
        return None
    return WeightType.of(weight)
