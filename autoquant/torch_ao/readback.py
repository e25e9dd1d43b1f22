"""Read back from a converted graph which precision each site really runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized.reference.modules.utils import ReferenceQuantizedModule
from torch.fx import GraphModule, Interpreter, Node

from autoquant.core.precision import Mode, Precision, Scheme
from autoquant.torch_ao.scales import KnownScale

FLOAT_NODE = "stack_trace"
"""Key of a converted node's meta that holds the name of the float node that it computes.

Lowering makes new nodes and copies nothing to them but the stack trace, so that is what carries
the name through it.
"""

_DYNAMIC = ("torch.ao.nn.quantized.dynamic", "torch.ao.nn.intrinsic.quantized.dynamic")
_WEIGHT_ONLY = "torch.ao.nn.quantized.modules.embedding_ops"
_WEIGHTS = {torch.qint8: Precision.INT8, torch.float16: Precision.FP16}


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

    def honours(self, scheme: Scheme) -> bool:
        """Whether this is a scheme, on a kernel or simulated in float."""
        if self.kernel is scheme:
            return True
        simulated = self.kernel in (Scheme.FP32, Scheme.FP16) and scheme.mode is Mode.STATIC
        rounded = self.inputs == {scheme.activation}
        return simulated and rounded and self.weight in (None, scheme.weight)

    def __str__(self) -> str:
        weight = self.weight.value if self.weight else "unrounded"
        inputs = "/".join(sorted(item.value for item in self.inputs)) or "no"
        if self.kernel is Scheme.FP32:
            return f"fp32 arithmetic ({weight} weights, {inputs} inputs)"
        return f"{self.kernel.value} native"


class Spy(Interpreter):
    """Runs a converted graph; notes what arrives at every call and what it gives.

    Attributes:
        arrived: By call, the tensors that it reads.
        inputs: By call that computes a float node, copies of its activations, as floats.
        values: By node, what it gives; copies, as the next op may write in place.
        failed: The call that raised, None where none did.
    """

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.arrived: dict[Node, tuple[Tensor, ...]] = {}
        self.inputs: dict[Node, tuple[Tensor, ...]] = {}
        self.values: dict[Node, Any] = {}
        self.failed: Node | None = None

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        if n.op in ("call_module", "call_function", "call_method"):
            values = [self.env[item] for item in n.all_input_nodes]
            self.arrived[n] = tuple(item for item in values if isinstance(item, Tensor))
            reads = [self.env[item] for item in n.all_input_nodes if item.op != "get_attr"]
            self.inputs[n] = tuple(_float_copy(item) for item in reads if isinstance(item, Tensor))
        try:
            value = super().run_node(n)
        except Exception:
            self.failed = n
            raise
        self.values[n] = value.clone() if isinstance(value, Tensor) else value
        return value

    @property
    def computed(self) -> list[Node]:
        """Calls that compute an op of the float graph, in order."""
        model = self.module
        return [node for node in self.inputs if float_name(node) and not _converts(model, node)]


def mark_float_nodes(prepared: GraphModule) -> None:
    """Write its own name to every node, where conversion keeps it, in place."""
    for node in prepared.graph.nodes:
        node.stack_trace = node.name


def float_name(node: Node) -> str:
    """Name of the float node that a converted node computes; empty where there is none."""
    return str(node.meta.get(FLOAT_NODE, "") or "")


def observe_execution(spy: Spy, sites: Mapping[str, str]) -> dict[str, Execution]:
    """Tell what each site computed on in one run.

    What counts is what arrives: quantized tensors, or floats that came through a rounding; and
    the class of the module that takes them.

    Args:
        spy: Has run the converted model; `mark_float_nodes` was called before conversion.
        sites: By name of a float call, its site.

    Returns:
        By site; a site that the graph lost is missing.
    """
    found: dict[str, Execution] = {}
    converted: Any = spy.module
    for node in spy.computed:
        site = sites.get(float_name(node))
        if site is not None:
            found[site] = _describe(converted, node, spy.arrived[node], spy)
    return found


def _float_copy(tensor: Tensor) -> Tensor:
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor.float().clone() if tensor.is_floating_point() else tensor.clone()


def _converts(model: Any, node: Node) -> bool:
    """Whether a call only changes the format of a tensor."""
    if node.target in ("dequantize", "to", torch.quantize_per_tensor):
        return True
    return node.op == "call_module" and isinstance(
        model.get_submodule(str(node.target)), KnownScale
    )


def _describe(model: GraphModule, node: Node, arrived: Sequence[Tensor], spy: Spy) -> Execution:
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    inner = module[0] if isinstance(module, nn.Sequential) else module
    weight = None
    if isinstance(inner, ReferenceQuantizedModule):
        weight = _WEIGHTS.get(inner.weight_dtype)
    operands, functional = _operands(model, node, spy)
    halves = any(item.dtype is torch.float16 for item in arrived)
    rounded = frozenset(_rounding(model, source, spy) for source in operands)
    return Execution(
        kernel=_kernel(node, module, arrived),
        weight=weight or functional,
        inputs=frozenset({Precision.FP16}) if halves else rounded,
    )


def _operands(model: GraphModule, node: Node, spy: Spy) -> tuple[list[Node], Precision | None]:
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


def _kernel(node: Node, module: nn.Module | None, arrived: Sequence[Tensor]) -> Scheme:
    home = type(module).__module__ if module is not None else ""
    name = str(node.target)
    if home.startswith(_DYNAMIC):
        packed = getattr(module, "_packed_params", module)
        half = getattr(packed, "dtype", None) is torch.float16
        return Scheme.FP16 if half else Scheme.INT8_DYNAMIC
    if home.startswith(_WEIGHT_ONLY):
        return Scheme.INT8_WEIGHT_ONLY
    if module is None and "dynamic" in name and name.startswith("quantized"):
        return Scheme.FP16 if "fp16" in name else Scheme.INT8_DYNAMIC
    if any(item.is_quantized for item in arrived):
        return Scheme.INT8
    half = any(item.dtype is torch.float16 for item in arrived)
    return Scheme.FP16 if half else Scheme.FP32


def _rounding(model: GraphModule, source: Node, spy: Spy) -> Precision:
    """Precision that a tensor was last rounded to."""
    if source.op == "call_module":
        rounding = model.get_submodule(str(source.target))
        if isinstance(rounding, KnownScale) and rounding.rounds:
            return Precision.INT16
    if source.op == "call_method" and source.target == "dequantize":
        (stored,) = spy.arrived[source]
        return Precision.FP16 if stored.dtype is torch.float16 else Precision.INT8
    if source.op == "call_method" and source.target == "to" and torch.float16 in source.args:
        return Precision.FP16
    return Precision.FP32
