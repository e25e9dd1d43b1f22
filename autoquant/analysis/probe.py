"""One forward and one backward pass with random signs at the outputs: powers of rounding errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from autoquant.analysis.marks import MarkedGraph
from autoquant.analysis.rounded_run import is_float
from autoquant.analysis.rounding_power import powers_of_channels, powers_of_samples
from autoquant.analysis.rounding_terms import WHOLE, RoundingTerms, Rows, Terms
from autoquant.model.batches import Batch
from autoquant.model.outputs import OutputWeights, named_outputs, rows_of
from autoquant.model.torch_ao.rounding import Format


class Probe(Interpreter):
    """Measures the power that each rounding error has at the outputs, to first order.

    With signs v drawn for all outputs, g = J^T v is known for every tensor after one backward
    pass, and E[(g . d)^2] = ||J d||^2 for a rounding error d (Hutchinson's estimator; Avron and
    Toledo, J. ACM 58(2), 2011, section 2). Errors of different channels count as uncorrelated,
    which averages over channels what one draw of v leaves to chance; `rounding_power` has the
    equations. Rounding errors are formed in hooks, tensor by tensor, when the gradient arrives.

    Args:
        marked: The graph.
        terms: Its rounding errors.
        draw: Draws the signs.
        memory_bytes: Rounding errors of weights up to this size are kept for all chunks.
        weights: Which outputs count.
    """

    def __init__(
        self,
        marked: MarkedGraph,
        terms: RoundingTerms,
        draw: torch.Generator,
        memory_bytes: int,
        weights: OutputWeights | None = None,
    ) -> None:
        super().__init__(marked.module)
        self._marked = marked
        self._terms = terms
        self._draw = draw
        self._weights = weights or OutputWeights()
        self._scales: dict[str, float] = {}
        self._memory_left = memory_bytes
        self._samples = 0
        self._errors: dict[tuple[str, Format], Tensor] = {}
        self._states: dict[str, Mapping[str, Tensor]] = {}
        self._apart = {node: terms.readers_apart(node) for node in terms.activations}
        self._gradients: dict[Node, dict[str, Tensor]] = defaultdict(dict)
        self._sample_powers: dict[tuple[Node, Format, str], list[Tensor]] = defaultdict(list)
        self._channel_powers: dict[tuple[str, Format], list[Tensor]] = defaultdict(list)
        self._weight_terms: dict[str, Terms] = {}

    def measure(self, batch: Batch) -> Tensor:
        """Probe one chunk; gives the power of each sample's float outputs."""
        self._samples = len(batch)
        inputs = [
            item.detach().requires_grad_() if is_float(item) else item for item in batch.inputs
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
            power = (rows_of(value.detach(), samples).double() ** 2).sum(1) * self._scales[
                name
            ] ** 2
            powers.append(power if len(power) == samples else power.expand(samples) / samples)
        total = torch.stack(powers).sum(0)
        return total if self._weights.weights else total / len(powers)

    def activation_powers(self) -> Iterator[tuple[Rows, Tensor]]:
        """Each rounding error of an activation: its rows, and its power at each sample."""
        for (node, how, reader), powers in self._sample_powers.items():
            yield self._terms.activations[node][how][reader], torch.cat(powers).double()

    def weight_powers(self) -> Iterator[tuple[Rows, Tensor]]:
        """Each rounding error of a weight: its rows, and its power by chunk and channel."""
        for (name, how), powers in self._channel_powers.items():
            yield self._weight_terms[name][how][WHOLE], torch.cat(powers).double()

    def run_node(self, n: Node) -> Any:
        """Run one node, and wait for the gradient of what it gives."""
        if n.op == "get_attr":
            value = self._parameters(n)["value"]
        elif n.op in ("placeholder", "output"):
            value = super().run_node(n)
        else:
            value = self._call(n)
        if n in self._terms.activations and is_float(value) and value.requires_grad:
            value.register_hook(partial(self._take_activation, n, value.detach()))
        return value

    def _call(self, node: Node) -> Any:
        args: Any = map_arg(node.args, lambda source: self._read(source, node))
        kwargs: Any = map_arg(node.kwargs, lambda source: self._read(source, node))
        if node in self._marked.in_place:
            args = (args[0].clone(), *args[1:])
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            return functional_call(module, dict(self._parameters(node)), args, kwargs)
        return getattr(self, node.op)(node.target, args, kwargs)

    def _read(self, source: Node, reader: Node) -> Any:
        value = self.env[source]
        if reader.name in self._apart.get(source, ()) and value.requires_grad:
            value = value.view_as(value)  # its gradient is that of this reader alone
            value.register_hook(partial(self._keep_gradient, source, reader.name))
        return value

    def _keep_gradient(self, source: Node, reader: str, gradient: Tensor) -> None:
        known = self._gradients[source].get(reader)
        self._gradients[source][reader] = gradient if known is None else known + gradient

    def _take_activation(self, node: Node, value: Tensor, gradient: Tensor) -> None:
        """Form a tensor's rounding errors, and take their powers."""
        gradients = {WHOLE: gradient, **self._gradients.pop(node, {})}
        for how, readers in self._terms.activations[node].items():
            present = [reader for reader in readers if reader in gradients]
            powers = powers_of_samples(
                how, value, [gradients[reader] for reader in present], self._samples
            )
            for reader, power in zip(present, powers, strict=True):
                self._sample_powers[node, how, reader].append(power)

    def _parameters(self, node: Node) -> Mapping[str, Tensor]:
        """The node's parameters as leaves of their own; those that schemes round are watched."""
        name = str(node.target)
        if name not in self._states:
            self._states[name] = (
                self._watch_attribute(node) if node.op == "get_attr" else self._watch_module(node)
            )
        return self._states[name]

    def _watch_module(self, node: Node) -> Mapping[str, Tensor]:
        module = self.fetch_attr(str(node.target))
        weights, biases = self._terms.weights([node]), self._terms.biases(node)
        return {
            name: self._watch(
                f"{node.target}.{name}",
                parameter,
                weights if name.rpartition(".")[2].startswith("weight") else biases,
            )
            for name, parameter in module.named_parameters()
        }

    def _watch_attribute(self, node: Node) -> Mapping[str, Tensor]:
        """Watch a functional op's weight."""
        value = self.fetch_attr(str(node.target))
        if not is_float(value):
            return {"value": value}
        terms = self._terms.weights(node.users) if value.ndim > 1 else {}
        return {"value": self._watch(str(node.target), value, terms)}

    def _watch(self, name: str, parameter: Tensor, terms: Terms) -> Tensor:
        leaf = parameter.detach()
        if terms:
            self._weight_terms[name] = terms
            leaf.requires_grad_()
            leaf.register_post_accumulate_grad_hook(partial(self._take_weight, name))
        return leaf

    def _take_weight(self, name: str, leaf: Tensor) -> None:
        """Form a weight's rounding errors, and take their powers."""
        gradient, leaf.grad = leaf.grad, None
        if gradient is not None:
            for how in self._weight_terms[name]:
                error = self._weight_error(name, how, leaf.detach())
                powers = powers_of_channels(error, gradient)
                self._channel_powers[name, how].append(powers)

    def _weight_error(self, name: str, how: Format, weight: Tensor) -> Tensor:
        known = self._errors.get((name, how))
        if known is not None:
            return known
        error = how(weight) - weight
        size = error.numel() * error.element_size()
        if size <= self._memory_left:
            self._memory_left -= size
            self._errors[name, how] = error
        return error
