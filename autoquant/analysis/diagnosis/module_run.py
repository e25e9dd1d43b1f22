"""Runs a marked graph in float, under a plan, or again from where one knob changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.analysis.diagnosis.module_marks import MarkedGraph
from autoquant.core.precision import Mode, Scheme
from autoquant.core.sensitivity import Part
from autoquant.core.sites import Site
from autoquant.model.torch_ao.rounding import Format, SchemeRounding

Values = dict[Node, Any]
Choice = tuple[Scheme, Part]
Choices = Mapping[str, Choice]
"""By site name, the scheme that it takes and which of its tensors are rounded; fp32 if absent."""


@dataclass(slots=True)
class Shared:
    """Rounded tensors that several runs read: each is rounded once.

    Attributes:
        inputs: Of one chunk's values, by the node that gives them.
        weights: By module and parameter name, or by get_attr node.
    """

    inputs: dict[tuple[Node, Format], Tensor] = field(default_factory=dict)
    weights: dict[tuple[object, str, Format], Tensor] = field(default_factory=dict)


class RoundedRun(Interpreter):
    """Computes values of a graph with some of its sites rounded, by reference numerics.

    Each op runs in float on rounded inputs and weights, and its output is rounded; under bf16 the
    op itself runs in bf16. A tensor that its writer rounded to the reader's number format is not
    rounded again.

    Args:
        marked: The graph.
        rounding: Rounds tensors as schemes do.
    """

    def __init__(self, marked: MarkedGraph, rounding: SchemeRounding) -> None:
        super().__init__(marked.module, garbage_collect_values=False)
        self._marked = marked
        self._rounding = rounding

    def run_float(self, inputs: tuple[Tensor, ...]) -> Values:
        """Every value of the float model."""
        self.run(*inputs)
        return dict(self.env)

    def run_plan(self, float_values: Values, choices: Choices) -> Values:
        """Every value under a plan.

        Args:
            float_values: From `run_float`; inputs and weights are taken from there.
            choices: Of every site.
        """
        self.env = dict(float_values)
        shared = Shared()
        for node in self._marked.nodes:
            if node.op not in ("placeholder", "get_attr"):
                self.env[node] = self._compute(node, choices, float_values, shared)
        return dict(self.env)

    def run_again(
        self, values: Values, nodes: Collection[Node], choices: Choices, shared: Shared
    ) -> Any:
        """The model's outputs after a change, on top of known values.

        Args:
            values: Values of all nodes before the change.
            nodes: What to compute, in execution order: all that the change reaches.
            choices: Of every site that those nodes belong to, and of the writers before them.
            shared: Rounded tensors of `values`, extended by this run.
        """
        self.env = dict(values)
        computed: set[Node] = set()
        for node in nodes:
            self.env[node] = self._compute(node, choices, values, shared)
            computed.add(node)
            for done in self._marked.last_reads[node]:
                if done in computed:  # its memory is warm: the next op may have it
                    self.env[done] = None
        return self.env[self._marked.nodes[-1]]

    def _compute(self, node: Node, choices: Choices, before: Values, shared: Shared) -> Any:
        site = self._marked.roots.get(node)
        choice = choices.get(site.name) if site else None
        if site is None or choice is None:
            value = self.run_node(node)
        else:
            value = self._call_rounded(node, site, choice, choices, before, shared)
        return self._round_output(node, value, choices)

    def _call(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Run one node; an op that would write into its input writes into a copy."""
        if node in self._marked.in_place:
            args = (args[0].clone(), *args[1:])
        return getattr(self, node.op)(node.target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        """Run one node in float."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self._call(n, args, kwargs)

    def _round_output(self, node: Node, value: Any, choices: Choices) -> Any:
        writer = self._marked.writers.get(node)
        choice = choices.get(writer.name) if writer else None
        if writer is None or choice is None or not isinstance(value, Tensor):
            return value
        scheme, part = choice
        if part is Part.WEIGHT:
            return value
        return self._rounding.output(writer, scheme, node.name, value)

    def _call_rounded(
        self,
        node: Node,
        site: Site,
        choice: Choice,
        choices: Choices,
        before: Values,
        shared: Shared,
    ) -> Any:
        """Run one op on rounded inputs and weights."""
        scheme, part = choice
        rounded = {
            source: self._round_operand(source, site, choices, before, shared)
            if is_float(self.env[source])
            else self.env[source]
            for source in node.all_input_nodes
        }
        args: Any = map_arg(node.args, rounded.__getitem__)
        kwargs: Any = map_arg(node.kwargs, rounded.__getitem__)
        if scheme is Scheme.BF16 and part is Part.BOTH:
            return self._call_bfloat16(node, args, kwargs)
        if node.op == "call_module" and part is not Part.ACTIVATION:
            module = self.fetch_attr(str(node.target))
            weights = self._round_weights(node, module, site, scheme, shared)
            return functional_call(module, weights, args, kwargs)
        return self._call(node, args, kwargs)

    def _call_bfloat16(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Run one op in bf16: its kernel accumulates and adds its bias in its own way."""
        args, kwargs = pytree.tree_map(_to_bfloat16, (args, kwargs))
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            state = {name: _to_bfloat16(item) for name, item in module.state_dict().items()}
            value = functional_call(module, state, args, kwargs)
        else:
            value = self._call(node, args, kwargs)
        return pytree.tree_map(lambda item: item.float() if is_float(item) else item, value)

    def _round_operand(
        self, source: Node, site: Site, choices: Choices, before: Values, shared: Shared
    ) -> Tensor:
        """An input as the scheme rounds it; a functional op's weight counts as weight."""
        value: Tensor = self.env[source]
        scheme, part = choices[site.name]
        if source.op == "get_attr":
            is_weight = value.ndim > 1 and part is not Part.ACTIVATION
            rounding = self._rounding.weight_format(site, scheme) if is_weight else None
            return (
                value
                if rounding is None
                else _once(shared.weights, (source, "", rounding), rounding, value)
            )
        writer = self._marked.writers.get(source)
        written = choices.get(writer.name) if writer else None
        if part is Part.WEIGHT or (written and hands_on(written[0], scheme)):
            return value
        rounding = self._rounding.input_format(site, scheme, source.name)
        if rounding is None:
            return value
        if value is not before[source]:
            return rounding(value)
        return _once(shared.inputs, (source, rounding), rounding, value)

    def _round_weights(
        self, node: Node, module: nn.Module, site: Site, scheme: Scheme, shared: Shared
    ) -> dict[str, Tensor]:
        rounding = self._rounding.weight_format(site, scheme)
        if rounding is None:
            return {}
        return {
            name: _once(shared.weights, (node.target, name, rounding), rounding, parameter.detach())
            for name, parameter in weights_of(module)
        }


def hands_on(written: Scheme, read: Scheme) -> bool:
    """Whether a tensor written under one scheme is in the reader's number format already."""
    return (
        written is not Scheme.FP32
        and written.activation is read.activation
        and written.mode is Mode.STATIC
        and read.mode is Mode.STATIC
    )


def weights_of(module: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """The parameters that schemes round: weights, not biases."""
    return (
        (name, parameter)
        for name, parameter in module.named_parameters()
        if name.rpartition(".")[2].startswith("weight")
    )


def is_float(value: object) -> bool:
    """Whether it is a tensor of floats."""
    return isinstance(value, Tensor) and value.is_floating_point()


def _to_bfloat16(value: Any) -> Any:
    return value.to(torch.bfloat16) if is_float(value) else value


def _once(known: dict[Any, Tensor], key: Any, rounding: Format, value: Tensor) -> Tensor:
    if key not in known:
        known[key] = rounding(value)
    return known[key]
