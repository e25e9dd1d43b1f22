"""Read back from a converted graph which precision each site really runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from autoquant.core.precision import Precision, Scheme, Support
from autoquant.model.numerics import FixedFakeQuantize

_DYNAMIC_MODULES = (
    "torch.ao.nn.quantized.dynamic",
    "torch.ao.nn.intrinsic.quantized.dynamic",
)
_WEIGHT_ONLY_MODULES = "torch.ao.nn.quantized.modules.embedding_ops"


@dataclass(frozen=True, slots=True)
class Execution:
    """What one site runs.

    Attributes:
        kernel: The scheme of the kernel itself; fp32 where float arithmetic stands for another.
        weight: Precision of the grid its weight was rounded to; None: not rounded.
        inputs: Precisions that its float inputs were rounded to in front of it.
    """

    kernel: Scheme
    weight: Precision | None
    inputs: frozenset[Precision]

    def honours(self, scheme: Scheme, support: Support) -> bool:
        """Whether this is `scheme`, run as `support` says.

        An fp32 op between two rounded tensors computes what an emulated op without weights
        computes: there the two are the same, and both answers are yes.
        """
        if support is Support.NATIVE:
            return self.kernel is scheme and self.weight is None
        if self.kernel not in (Scheme.FP32, Scheme.FP16):
            return False
        rounded = self.inputs == {scheme.activation}
        return rounded and self.weight in (None, scheme.weight)

    def __str__(self) -> str:
        weight = self.weight.value if self.weight else "unrounded"
        inputs = "/".join(sorted(item.value for item in self.inputs)) or "no"
        if self.kernel is Scheme.FP32:
            return f"fp32 arithmetic ({weight} weights, {inputs} inputs)"
        return f"{self.kernel.value} {Support.NATIVE.value}"


def observe_execution(
    converted: GraphModule,
    roots: Mapping[str, str],
    inputs: tuple[Tensor, ...],
    float_node_key: str,
) -> dict[str, Execution]:
    """Run one batch and note what each site computes on.

    What counts is what arrives: quantized tensors, bf16 tensors, or floats that came through a
    rounding; and the class of the module that takes them.

    Args:
        converted: The converted model.
        roots: By name of a float root node, its site.
        inputs: One (small) batch.
        float_node_key: Key of `node.meta` under which conversion left the float node's name.

    Returns:
        By site; a site that the graph lost is missing.
    """
    spy = _Spy(converted)
    spy.run(*inputs)
    found: dict[str, Execution] = {}
    for node, arrived in spy.arrived.items():
        site = roots.get(node.meta.get(float_node_key, ""))
        if site is not None and node.target != "dequantize":
            found[site] = _describe(converted, node, arrived, spy)
    return found


class _Spy(Interpreter):
    """Notes the tensors that arrive at every call."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.arrived: dict[Node, tuple[Tensor, ...]] = {}

    def run_node(self, n: Node) -> Any:
        if n.op in ("call_module", "call_function", "call_method"):
            values = [self.env[item] for item in n.all_input_nodes]
            self.arrived[n] = tuple(item for item in values if isinstance(item, Tensor))
        return super().run_node(n)


def _describe(model: GraphModule, node: Node, arrived: tuple[Tensor, ...], spy: _Spy) -> Execution:
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    inner = module[0] if isinstance(module, nn.Sequential) else module
    halves = any(item.dtype is torch.float16 for item in arrived)
    operands, weight = _operands(model, node, spy)
    rounded = frozenset(_rounding(model, source, spy) for source in operands)
    return Execution(
        kernel=_kernel(node, module, arrived),
        weight=getattr(inner, "weight_precision", weight),
        inputs=frozenset({Precision.FP16}) if halves else rounded,
    )


def _operands(model: GraphModule, node: Node, spy: _Spy) -> tuple[list[Node], Precision | None]:
    """Activations that arrive, and the precision of a functional op's weight."""
    second = node.args[1] if len(node.args) > 1 else None
    if not isinstance(second, Node) or not _comes_from_attribute(second):
        return node.all_input_nodes, None
    precision = _rounding(model, second, spy)
    return [node.all_input_nodes[0]], None if precision is Precision.FP32 else precision


def _comes_from_attribute(node: Node) -> bool:
    """Whether a tensor is a parameter, perhaps after rounding."""
    while node.op != "get_attr" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.op == "get_attr"


def _kernel(node: Node, module: nn.Module | None, arrived: tuple[Tensor, ...]) -> Scheme:
    home = type(module).__module__ if module is not None else ""
    name = str(node.target)
    if home.startswith(_DYNAMIC_MODULES):
        packed = getattr(module, "_packed_params", module)
        half = getattr(packed, "dtype", None) is torch.float16
        return Scheme.FP16 if half else Scheme.INT8_DYNAMIC
    if home.startswith(_WEIGHT_ONLY_MODULES):
        return Scheme.INT8_WEIGHT_ONLY
    if module is None and "dynamic" in name and name.startswith("quantized"):
        return Scheme.FP16 if "fp16" in name else Scheme.INT8_DYNAMIC
    if any(item.is_quantized for item in arrived):
        return Scheme.INT8
    dtypes = {item.dtype for item in arrived}
    if torch.bfloat16 in dtypes:
        return Scheme.BF16
    return Scheme.FP16 if torch.float16 in dtypes else Scheme.FP32


def _rounding(model: GraphModule, source: Node, spy: _Spy) -> Precision:
    """Precision that a tensor was last rounded to."""
    if source.op == "call_module":
        rounding = model.get_submodule(str(source.target))
        if isinstance(rounding, FixedFakeQuantize):
            return Precision.INT16
    if source.op == "call_method" and source.target == "dequantize":
        (stored,) = spy.arrived[source]
        return Precision.FP16 if stored.dtype is torch.float16 else Precision.INT8
    if source.op == "call_method" and source.target == "to" and torch.float16 in source.args:
        return Precision.FP16
    return Precision.FP32
