"""One op in float64 on given inputs, with its weight rounded as a scheme says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.core.precision import Mode, Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.rounding import SchemeRounding

_RECURRENT = frozenset({OpKind.LSTM, OpKind.GRU})
"""Their kernels round the hidden state at every step; no reference of one call does."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a site.

    Attributes:
        site: What is called.
        scheme: What it computes in.
        members: Names of its nodes in the float graph, the root first.
    """

    site: Site
    scheme: Scheme
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What an op should give.

    Attributes:
        value: Before its output is rounded, float64.
        unrounded: The same from float weights and inputs that are not rounded here; what lies
            between the two is the op's own rounding noise.
        scheme: What it computes in.
    """

    value: Tensor
    unrounded: Tensor
    scheme: Scheme


class ReferenceOps(Interpreter):
    """Computes single calls of a captured model's float graph.

    Args:
        captured: The float model.
        rounding: Rounds weights, and inputs whose scale is not fixed, as schemes do.
    """

    def __init__(self, captured: Capture, rounding: SchemeRounding) -> None:
        super().__init__(captured.graph, garbage_collect_values=False)
        self._rounding = rounding
        self._nodes: dict[str, Node] = {node.name: node for node in captured.graph.graph.nodes}

    def compute(self, call: Call, arrived: Sequence[Any]) -> Reference | None:
        """Give what the call should give on what arrived at its kernel.

        Args:
            call: The call.
            arrived: Its inputs, quantized or not, in the order of its arguments.

        Returns:
            None where no reference exists: recurrent layers, or inputs that the built graph
            passes in another way.
        """
        root = self._nodes[call.members[0]]
        sources: list[Node] = []
        map_arg((root.args, root.kwargs), sources.append)
        read = [node for node in sources if node.op != "get_attr"]
        if call.site.kind in _RECURRENT or len(read) != len(arrived):
            return None
        inputs = {node: _to_double(value) for node, value in zip(read, arrived, strict=True)}
        rounded = self._run(call, inputs, is_rounded=True)
        plain = self._run(call, inputs, is_rounded=False)
        return Reference(rounded, plain, call.scheme) if isinstance(rounded, Tensor) else None

    def _run(self, call: Call, inputs: dict[Node, Any], *, is_rounded: bool) -> Any:
        root, *rest = (self._nodes[name] for name in call.members)
        self.env = {
            node: self._round_input(call, node, value) if is_rounded else value
            for node, value in inputs.items()
        }
        for node in root.all_input_nodes:
            if node.op == "get_attr":
                self.env[node] = self._parameter(call, node, is_rounded=is_rounded)
        self.env[root] = self._call_root(call, root, is_rounded=is_rounded)
        for node in rest:
            self.env[node] = super().run_node(node)
        return self.env[self._nodes[call.members[-1]]]

    def _call_root(self, call: Call, root: Node, *, is_rounded: bool) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(root)
        args = pytree.tree_map(lambda item: item.clone() if _is_float(item) else item, args)
        if root.op != "call_module":
            return getattr(self, root.op)(root.target, args, kwargs)
        module = self.fetch_attr(str(root.target))
        state = {}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            is_weight = is_rounded and name.rpartition(".")[2].startswith("weight")
            value = self._weight(call, tensor.detach()) if is_weight else tensor
            state[name] = _to_double(value)
        return functional_call(module, state, args, kwargs)

    def _parameter(self, call: Call, node: Node, *, is_rounded: bool) -> Any:
        value = self.fetch_attr(str(node.target))
        if not _is_float(value):
            return value
        is_weight = is_rounded and value.ndim > 1
        return _to_double(self._weight(call, value.detach()) if is_weight else value)

    def _weight(self, call: Call, weight: Tensor) -> Tensor:
        return self._rounding.weight(call.site, call.scheme, weight)

    def _round_input(self, call: Call, node: Node, value: Any) -> Any:
        """Static inputs arrive rounded; the kernel itself rounds those of dynamic schemes."""
        if call.scheme.mode is not Mode.DYNAMIC or not _is_float(value):
            return value
        rounded = self._rounding.input(call.site, call.scheme, node.name, value.float())
        return rounded.double()


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _to_double(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    plain = value.dequantize() if value.is_quantized else value
    return plain.to(torch.float64) if plain.is_floating_point() else plain
