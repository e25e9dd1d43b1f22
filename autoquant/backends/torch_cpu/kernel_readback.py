"""Read back, from torch's dispatcher, which kernels a lowered graph really calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from autoquant.core.precision import Precision, Scheme, Support
from autoquant.core.readback import Ran
from autoquant.model.data.trees import tensors_of
from autoquant.model.graph.built_graph import FLOAT_NODE

_KERNELS: Mapping[str, Scheme] = {
    "quantized::linear_dynamic_fp16": Scheme.FP16,
    "quantized::linear_dynamic": Scheme.INT8_DYNAMIC,
    "quantized::embedding": Scheme.INT8_WEIGHT_ONLY,
    "quantized::": Scheme.INT8,
    "onednn::q": Scheme.INT8,
}
"""By the beginning of a kernel's name; the first that fits counts."""

_RECURRENT = ("aten::quantized_lstm", "aten::quantized_gru")
_CELLS_AT = 2
_CELLS = {"quantized_dynamic": Scheme.INT8_DYNAMIC, "quantized_fp16": Scheme.FP16}
"""By what the packed weights of a cell call themselves."""

_INT8_WEIGHTS = "aten::_weight_int8pack_mm"
_BY_FLOATS = {
    torch.bfloat16: Scheme.INT8_WEIGHT_ONLY_BF16,
    torch.float32: Scheme.INT8_WEIGHT_ONLY,
}
"""By the type of what that kernel multiplies with them."""

_BESIDE = {
    Scheme.INT8_DYNAMIC: Scheme.FP32,
    Scheme.INT8_WEIGHT_ONLY: Scheme.FP32,
    Scheme.INT8_WEIGHT_ONLY_BF16: Scheme.BF16,
    Scheme.FP16: Scheme.FP32,
}
"""Of schemes between float neighbours, what the rest of such an op computes in."""

FLOATS: Mapping[torch.dtype, Scheme] = {
    torch.bfloat16: Scheme.BF16,
    torch.float16: Scheme.FP16,
    torch.float32: Scheme.FP32,
}


@dataclass(slots=True)
class Execution:
    """What one site runs.

    Attributes:
        kernels: Every way in which it computes, and the first kernel that does.
        inputs: Formats to which its float inputs were rounded in front of it.
    """

    kernels: dict[Scheme, str] = field(default_factory=dict)
    inputs: set[Precision] = field(default_factory=set)

    def ran(self, scheme: Scheme, support: Support) -> Ran:
        """What this is: `scheme`, run as `support` says, where it fits; else what it is."""
        if self._is(scheme, support):
            arithmetic = scheme if support is Support.NATIVE else Scheme.FP32
            return Ran(scheme, support, self.kernels[arithmetic])
        rounded = sorted(item.value for item in self.inputs if item is not Precision.FP32)
        if len(self.kernels) == 1 and not rounded:
            ((found, kernel),) = self.kernels.items()
            return Ran(found, kernel=kernel)
        names = " and ".join(item.value for item in Scheme if item in self.kernels)
        if rounded:
            names += f" arithmetic on {'/'.join(rounded)} inputs"
        return Ran(None, kernel=names or "nothing")

    def _is(self, scheme: Scheme, support: Support) -> bool:
        """Whether this is a scheme, run as `support` says.

        Emulation is float arithmetic on inputs that were rounded to the scheme's format. What a
        kernel between float neighbours leaves to do (a relu, a division by counts) is float.
        """
        if support is Support.NATIVE:
            is_plain = not self.inputs & {Precision.INT8, Precision.INT16}
            return set(self.kernels) - {_BESIDE.get(scheme)} == {scheme} and is_plain
        return set(self.kernels) == {Scheme.FP32} and self.inputs == {scheme.activation}


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a run of a lowered graph showed.

    Attributes:
        executions: By site; one whose ops are in no kernel is missing.
        outputs: What the graph gave.
        calls: By node of the lowered graph, the tensors that arrived at its kernel and what it
            gave, as dtypes.
    """

    executions: Mapping[str, Execution]
    outputs: tuple[Any, ...]
    calls: Mapping[str, tuple[tuple[torch.dtype, ...], tuple[torch.dtype, ...]]]


def read_back(
    module: GraphModule, owners: Mapping[str, str], inputs: tuple[Tensor, ...]
) -> Reading:
    """Run a lowered graph once on a small batch and note which kernels reach the dispatcher."""
    spy = _Spy(module, owners)
    with torch.no_grad():
        outputs = spy.run(*inputs)
    return Reading(dict(spy.executions), tuple(outputs), spy.calls)


class _Spy(Interpreter):
    """Runs node by node, and notes the kernels of each."""

    def __init__(self, module: GraphModule, owners: Mapping[str, str]) -> None:
        super().__init__(module)
        self.executions: dict[str, Execution] = defaultdict(Execution)
        self.calls: dict[str, tuple[tuple[torch.dtype, ...], tuple[torch.dtype, ...]]] = {}
        self._owners = owners

    def run_node(self, n: Node) -> Any:
        """Run one node; note what it computes in where it computes a site."""
        if n.op != "call_function":
            return super().run_node(n)
        kernels: dict[Scheme, str] = {}

        def note(kernel: str, args: tuple[Any, ...]) -> None:
            scheme = _scheme(kernel, args)
            if scheme is not None:
                kernels.setdefault(scheme, kernel)

        with KernelCalls(note):
            value = super().run_node(n)
        arrived = pytree.tree_leaves([self.env[item] for item in n.all_input_nodes])
        self.calls[n.name] = (_dtypes(arrived), _dtypes(pytree.tree_leaves(value)))
        site = self._owners.get(str(n.meta.get(FLOAT_NODE, "")))
        if site is not None:
            found = self.executions[site]
            found.kernels = {**kernels, **found.kernels}
            if not kernels.keys().isdisjoint(FLOATS.values()):
                outside = [item for item in n.all_input_nodes if self._enters(item, site)]
                found.inputs |= set(map(rounding_of, outside))
        return value

    def _enters(self, source: Node, site: str) -> bool:
        """Whether a tensor is an input of a site: no constant, and not made within it."""
        within = self._owners.get(str(source.meta.get(FLOAT_NODE, ""))) == site
        return source.op != "get_attr" and not within


class KernelCalls(TorchDispatchMode):
    """Tells of every kernel that reaches torch's dispatcher: its name and its arguments."""

    def __init__(self, tell: Callable[[str, tuple[Any, ...]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tell = tell

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Tell of a kernel and run it."""
        self._tell(str(func._schema.name), args)
        return func(*args, **(kwargs or {}))


def scheme_of_quantized(kernel: str, args: tuple[Any, ...]) -> Scheme | None:
    """The scheme of one of torch's quantized kernels; None for others."""
    if kernel in _RECURRENT:
        return _CELLS[args[_CELLS_AT][0].__getstate__()[0][0]]
    if kernel == _INT8_WEIGHTS:
        return _BY_FLOATS.get(args[0].dtype)
    fitting = (scheme for beginning, scheme in _KERNELS.items() if kernel.startswith(beginning))
    return next(fitting, None)


def _scheme(kernel: str, args: tuple[Any, ...]) -> Scheme | None:
    """What a kernel computes in; None where it only counts or moves indices."""
    quantized = scheme_of_quantized(kernel, args)
    if quantized is not None:
        return quantized
    tensors = tensors_of(args)
    if any(item.is_quantized for item in tensors):
        return Scheme.INT8
    found = [FLOATS[item.dtype] for item in tensors if item.dtype in FLOATS]
    return found[0] if found else None


def rounding_of(node: Node) -> Precision:
    """The format to which a float tensor was rounded last; fp32: none."""
    target = node.target
    if target is torch.ops.aten.fake_quantize_per_tensor_affine.default:
        bits = (int(node.args[4]) - int(node.args[3])).bit_length()  # type: ignore[arg-type]
        return Precision.INT16 if bits > 8 else Precision.INT8
    if target is torch.ops.aten.to.dtype and node.args[1] is torch.float32:
        before = node.args[0]
        if isinstance(before, Node) and before.target is torch.ops.aten.to.dtype:
            return Precision.FP16 if before.args[1] is torch.float16 else Precision.FP32
    return Precision.FP32


def _dtypes(values: list[Any]) -> tuple[torch.dtype, ...]:
    return tuple(item.dtype for item in values if isinstance(item, Tensor))
