"""One op in float64 on given inputs, with its weight rounded as a scheme says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.debugging.diagnosis.recurrent import RECURRENT_LAYERS, run_layers
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounding import Cast, Format, SchemeRounding


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a site.

    Attributes:
        site: What is called.
        scheme: What it computes in.
        root: Its node in the float graph.
        result: Name of the float node that it gives; what lies between runs within its kernel.
    """

    site: Site
    scheme: Scheme
    root: Node
    result: str


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


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """What a kernel reads.

    Attributes:
        value: In real numbers, float64 where it is a float tensor.
        is_rounded: Whether it lies on a grid already.
    """

    value: Any
    is_rounded: bool


class ReferenceOps(Interpreter):
    """Computes single calls of a captured model's float graph."""

    def __init__(self, marked: SiteNodes, rounding: SchemeRounding) -> None:
        super().__init__(marked.module, garbage_collect_values=False)
        self._marked = marked
        self._rounding = rounding
        self._weights = {node for item in marked.operands.values() for node in item.weights}

    def compute(self, call: Call, arrived: Mapping[str, Arrived]) -> tuple[Reference, ...]:
        """Give what the call should give on what arrived at its kernel, tensor by tensor.

        Returns:
            Empty where no reference exists: recurrent layers over packed sequences, and inputs
            that the built graph passes in another way.
        """
        chain = _chain(call)
        given = {item for node in chain for item in node.all_input_nodes} - set(chain)
        if any(item.op != "get_attr" and item.name not in arrived for item in given):
            return ()
        read = {item: self._read(item, arrived) for item in given}
        formats = self._formats(call)
        plain = {item: one.value for item, one in read.items()}
        rounded = {item: _round(formats.get(item), one) for item, one in read.items()}
        if call.root.target in RECURRENT_LAYERS:
            values = self._layers(call, rounded, self._hidden_format(call))
            unrounded = self._layers(call, plain, None)
        else:
            values, unrounded = (_tensors(self._run(chain, it)) for it in (rounded, plain))
        return tuple(
            Reference(value, exact, call.scheme)
            for value, exact in zip(values, unrounded, strict=True)
        )

    def _hidden_format(self, call: Call) -> Format | None:
        """How a recurrent layer rounds its hidden state at every step: as it does its input."""
        return self._read_format(call, self._marked.operands[call.root].reads[0])

    def _read_format(self, call: Call, source: Node) -> Format | None:
        """How the kernel rounds what it reads: fp16's takes fp32, or what is rounded before it."""
        how = self._rounding.read_format(call.site, call.scheme, source.name)
        return None if isinstance(how, Cast) else how

    def _layers(
        self, call: Call, values: Mapping[Node, Any], how: Format | None
    ) -> tuple[Tensor, ...]:
        args = map_arg(call.root.args, lambda node: values[node])
        return run_layers(call.root.target, args, lambda value: _rounded(how, value))

    def _read(self, node: Node, arrived: Mapping[str, Arrived]) -> Arrived:
        """What a node gives: a weight as it is in the float model."""
        if node in self._weights or node.name not in arrived:
            value = self.fetch_attr(str(node.target))
            return Arrived(value.detach().double() if _is_float(value) else value, False)
        return arrived[node.name]

    def _formats(self, call: Call) -> dict[Node, Format | None]:
        operands = self._marked.operands[call.root]
        how = self._rounding.weight_format(call.site, call.scheme)
        formats: dict[Node, Format | None] = dict.fromkeys(operands.weights, how)
        for source in operands.reads:
            formats[source] = self._read_format(call, source)
        return formats

    def _run(self, chain: list[Node], values: Mapping[Node, Any]) -> Any:
        self.env = dict(values)
        for node in chain:
            self.env[node] = super().run_node(node)
        return self.env[chain[-1]]


def _chain(call: Call) -> list[Node]:
    """The float nodes from the root of a call to what it gives: each is read by the next alone."""
    chain = [call.root]
    while chain[-1].name != call.result and chain[-1].users:
        chain.append(next(iter(chain[-1].users)))
    return chain


def _round(how: Format | None, read: Arrived) -> Any:
    """A tensor as a scheme reads it; rounding is float32's."""
    return read.value if read.is_rounded or not _is_float(read.value) else _rounded(how, read.value)


def _rounded(how: Format | None, value: Tensor) -> Tensor:
    return value if how is None else how(value.float()).double()


def _tensors(value: object) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else ()


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
