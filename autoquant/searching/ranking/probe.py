"""One forward and one backward pass with random signs at the outputs: powers of rounding errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg
from torch.utils.hooks import RemovableHandle

from autoquant.model.data.batches import Batch
from autoquant.model.data.outputs import OutputWeights, named_outputs, rows_of
from autoquant.model.graph.aten import op_name
from autoquant.model.numerics.rounded_graph import is_float_tensor
from autoquant.model.numerics.rounding import Format
from autoquant.model.numerics.rounding_power import powers_of_channels, powers_of_samples
from autoquant.searching.ranking.marks import MarkedGraph
from autoquant.searching.ranking.rounding_terms import WHOLE, Readers, RoundingTerms, Rows

_Key = tuple[Node, Format, Readers]


class Probe(Interpreter):
    """Measures the power that each rounding error has at the outputs, to first order.

    With signs v drawn for all outputs, g = J^T v is known for every tensor after one backward
    pass, and E[(g . d)^2] = ||J d||^2 for a rounding error d (Hutchinson's estimator; Avron and
    Toledo, J. ACM 58(2), 2011, section 2). Errors of different channels count as uncorrelated,
    which averages over channels what one draw of v leaves to chance; `rounding_power` has the
    equations. Rounding errors are formed in hooks, tensor by tensor, when the gradient arrives.
    """

    def __init__(
        self,
        marked: MarkedGraph,
        terms: RoundingTerms,
        draw: torch.Generator,
        kept_bytes: int,
        weights: OutputWeights | None = None,
    ) -> None:
        super().__init__(marked.sites.module)
        self._terms = terms
        self._draw = draw
        self._weights = weights or OutputWeights()
        self._scales: dict[str, float] = {}
        self._memory_left = kept_bytes
        self._samples = 0
        self._errors: dict[tuple[Node, Format], Tensor] = {}
        self._apart = {node: terms.readers_apart(node) for node in marked.nodes}
        self._gradients: dict[Node, dict[str, Tensor]] = defaultdict(dict)
        self._hooks: list[RemovableHandle] = []
        self._sample_powers: dict[_Key, list[Tensor]] = defaultdict(list)
        self._channel_powers: dict[_Key, list[Tensor]] = defaultdict(list)

    def measure(self, batch: Batch) -> Tensor:
        """Probe one chunk; gives the power of each sample's float outputs."""
        try:
            return self._measure(batch)
        finally:  # autograd's graph holds hooks, which hold this: no collector sees such a circle
            for hook in self._hooks:
                hook.remove()
            self._hooks.clear()

    def _measure(self, batch: Batch) -> Tensor:
        self._samples = len(batch)
        inputs = [
            item.detach().requires_grad_() if item.is_floating_point() else item
            for item in batch.inputs
        ]
        with torch.enable_grad():
            outputs = named_outputs(self.run(*inputs), detached=False)
        if not self._scales:
            self._scales = self._weights.scales(outputs)
        signs = {
            name: torch.randint(0, 2, value.shape, generator=self._draw).to(value.dtype) * 2 - 1
            for name, value in outputs.items()
        }
        moved = [name for name, value in outputs.items() if value.requires_grad]
        if moved:
            torch.autograd.backward(
                [outputs[name] for name in moved],
                [signs[name] * self._scales[name] for name in moved],
            )
        return self._signal(outputs, len(batch))

    def _signal(self, outputs: Mapping[str, Tensor], samples: int) -> Tensor:
        """Power of each sample's outputs, in the mean over those that count.

        Where several count for themselves, errors in them add up, each over its own signal.
        """
        powers = []
        for name, value in outputs.items():
            rows = rows_of(value.detach(), samples).double() * self._scales[name]
            power = (rows**2).sum(1)
            powers.append(power if len(power) == samples else power.expand(samples) / samples)
        total = torch.stack(powers).sum(0)
        return total if self._weights.weights else total / len(powers)

    def activation_powers(self) -> Iterator[tuple[Rows, Tensor]]:
        """Each rounding error of an activation: its rows, and its power at each sample."""
        for (node, how, readers), powers in self._sample_powers.items():
            yield self._terms.activations[node][how][readers], torch.cat(powers).double()

    def constant_powers(self) -> Iterator[tuple[Rows, Tensor]]:
        """Each rounding error of a weight or bias: its rows, and its power by chunk and channel."""
        for (node, how, readers), powers in self._channel_powers.items():
            yield self._terms.constants[node][how][readers], torch.cat(powers).double()

    def run_node(self, n: Node) -> Any:
        """Run one node, and wait for the gradient of what it gives."""
        if n.op == "call_function":
            args: Any = map_arg(n.args, lambda source: self._read(source, n))
            kwargs: Any = map_arg(n.kwargs, lambda source: self._read(source, n))
            if op_name(n) == "batch_norm":  # torch gives its statistics no gradient, and fails
                args = (*args[:3], *(item.detach() for item in args[3:5]), *args[5:])
            value = self.call_function(n.target, args, kwargs)
        else:
            value = super().run_node(n)
        if n.op == "get_attr" and is_float_tensor(value):
            return self._watch_constant(n, value.detach())
        if n in self._terms.activations and is_float_tensor(value) and value.requires_grad:
            self._hook(value, partial(self._take_activation, n, value.detach()))
        return value

    def _hook(self, value: Tensor, take: Callable[[Tensor], None]) -> None:
        """Call a function with the gradient of a tensor."""
        self._hooks.append(value.register_hook(take))

    def _watch_constant(self, node: Node, value: Tensor) -> Tensor:
        """A constant as a leaf of its own; those that schemes round are watched."""
        is_weight, is_read = node in self._terms.constants, node in self._terms.activations
        if not is_weight and not is_read:
            return value
        leaf = value.requires_grad_()
        watched = leaf.view_as(leaf)
        take = self._take_constant if is_weight else self._take_activation
        self._hook(watched, partial(take, node, value.detach()))
        self._hooks.append(leaf.register_post_accumulate_grad_hook(_forget_gradient))
        return watched

    def _read(self, source: Node, reader: Node) -> Any:
        value = self.env[source]
        if reader.name in self._apart[source] and value.requires_grad:
            value = value.view_as(value)  # its gradient is that of this reader alone
            self._hook(value, partial(self._keep_gradient, source, reader.name))
        return value

    def _keep_gradient(self, source: Node, reader: str, gradient: Tensor) -> None:
        known = self._gradients[source].get(reader)
        self._gradients[source][reader] = gradient if known is None else known + gradient

    def _take_activation(self, node: Node, value: Tensor, gradient: Tensor) -> None:
        """Form a tensor's rounding errors, and take their powers."""
        apart = self._gradients.pop(node, {})
        for how, groups in self._terms.activations[node].items():
            gradients = {readers: _of_readers(readers, gradient, apart) for readers in groups}
            present = [(key, found) for key, found in gradients.items() if found is not None]
            powers = powers_of_samples(how, value, [item for _, item in present], self._samples)
            for (readers, _), power in zip(present, powers, strict=True):
                self._sample_powers[node, how, readers].append(power)

    def _take_constant(self, node: Node, value: Tensor, gradient: Tensor) -> None:
        """Form a constant's rounding errors, and take their powers."""
        apart = self._gradients.pop(node, {})
        for how, groups in self._terms.constants[node].items():
            error = self._constant_error(node, how, value)
            for readers in groups:
                found = _of_readers(readers, gradient, apart)
                if found is not None:
                    powers = powers_of_channels(error, found)
                    self._channel_powers[node, how, readers].append(powers)

    def _constant_error(self, node: Node, how: Format, value: Tensor) -> Tensor:
        known = self._errors.get((node, how))
        if known is not None:
            return known
        error = how(value) - value
        size = error.numel() * error.element_size()
        if size <= self._memory_left:
            self._memory_left -= size
            self._errors[node, how] = error
        return error


def _forget_gradient(leaf: Tensor) -> None:
    """Drop a gradient that was taken: those of all weights would be as large as they are."""
    leaf.grad = None


def _of_readers(readers: Readers, whole: Tensor, apart: dict[str, Tensor]) -> Tensor | None:
    """The gradient that comes back through some readers; None: none of them reaches an output."""
    if readers == WHOLE:
        return whole
    found = [apart[name] for name in readers if name in apart]
    return sum(found[1:], found[0]) if found else None
