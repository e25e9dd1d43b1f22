"""Read back from a converted graph in which type every op gets, gives and stores its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized.reference.modules.utils import ReferenceQuantizedModule
from torch.fx import GraphModule, Interpreter, Node

from autoquant.backends.examination import OpTypes, WeightType
from autoquant.torch_ao.readback import float_name
from autoquant.torch_ao.scales import KnownScale

_SIMULATED = {torch.qint8: "int8", torch.float16: "fp16"}
"""What reference modules round their weights to; they drop the scales of int16."""


def observe_types(converted: GraphModule, inputs: Sequence[Any]) -> dict[str, OpTypes]:
    """Run one batch and note the types of all tensors.

    Returns:
        By float node; one that the graph lost is missing.
    """
    reader = _TypeReader(converted)
    with torch.no_grad():
        reader.run(*inputs, enable_io_processing=False)
    found: dict[str, OpTypes] = {}
    for node, dtype in reader.types.items():
        name = float_name(node)
        if not name or node.op not in ("call_module", "call_function", "call_method"):
            continue
        if node.target == "dequantize" or _is_rounding(converted, node):
            continue
        found[name] = OpTypes(
            inputs=tuple(reader.types[item] for item in _activations(node) if reader.types[item]),
            output=_output(converted, node, dtype),
            weight=_weight(converted, node),
        )
    return found


class _TypeReader(Interpreter):
    """Notes the type of every node's tensor; empty for what is none."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self._model = module
        self.types: dict[Node, str] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        first = value[0] if isinstance(value, (tuple, list)) and value else value
        name = str(first.dtype).removeprefix("torch.") if isinstance(first, Tensor) else ""
        before = self.types.get(n.all_input_nodes[0], "") if n.all_input_nodes else ""
        if _is_rounding(self._model, n):
            name = f"int16 in {name}"
        elif n.target == "dequantize" and name == "float32":
            name = f"{before} in float32" if before not in ("", name) else name
        self.types[n] = name
        return value


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
        return _describe(next(iter(inner.get_weight().values())))
    if isinstance(inner, nn.RNNBase):
        return _describe(next(inner.parameters()))
    if getattr(getattr(inner, "_packed_params", None), "dtype", None) is torch.float16:
        return WeightType("float16")
    weight = getattr(inner, "weight", None)
    if callable(weight) and not isinstance(weight, Tensor):
        return _describe(weight())
    if not isinstance(weight, Tensor):
        return None
    return _describe(weight)


def _describe(weight: Tensor) -> WeightType:
    dtype = str(weight.dtype).removeprefix("torch.")
    if not weight.is_quantized:
        return WeightType(dtype)
    if str(weight.qscheme()).startswith("torch.per_channel"):
        return WeightType(dtype, weight.q_per_channel_axis(), weight.q_per_channel_scales().numel())
    return WeightType(dtype, None, 1)
