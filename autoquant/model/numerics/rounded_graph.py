"""Runs a captured graph with some of its sites rounded, by reference numerics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part
from autoquant.core.sites import OpKind, Site
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounding import Format, SchemeRounding, round_straight

Choice = tuple[Scheme, Part]
Choices = Mapping[str, Choice]
"""By site name, the scheme that it takes and which of its tensors are rounded; fp32 if absent."""


def choices_of(plan: Plan) -> Choices:
    """The choices of a plan, which rounds weights and activations."""
    return {
        site: (scheme, Part.BOTH) for site, scheme in plan.assignment if scheme is not Scheme.FP32
    }


class RoundedGraph(Interpreter):
    """Computes a graph in float, each site on rounded inputs and weights.

    An op in bf16 runs torch's bf16 kernel, which accumulates and adds its bias in its own way; a
    linear layer of int8 weights between floats in bf16 rounds its products before it adds one.
    """

    def __init__(
        self,
        marked: SiteNodes,
        rounding: SchemeRounding,
        choices: Choices,
        *,
        keeps_values: bool = False,
    ) -> None:
        super().__init__(marked.module, garbage_collect_values=not keeps_values)
        self.choices = choices
        self._marked = marked
        self._rounding = rounding

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        site = self._marked.roots.get(n)
        choice = self.choices.get(site.name) if site else None
        if site is None or choice is None:
            value = super().run_node(n)
        else:
            value = self._run_rounded(n, site, choice)
        return self._written(n, value)

    def round(self, source: Node, how: Format, value: Tensor) -> Tensor:  # noqa: ARG002
        """Round what a node gives."""
        return how(value)

    def run_bfloat16(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Run one op in bf16, on operands that are rounded to it already."""
        args, kwargs = pytree.tree_map(_to_bfloat16, (args, kwargs))
        return pytree.tree_map(_to_float, self.call_function(node.target, args, kwargs))

    def add_in_bfloat16(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Run a linear layer whose products and bias are rounded to bf16 before they are added."""
        read, weight, bias = (*args, *kwargs.values(), None)[:3]
        products = _bfloat16(self.call_function(node.target, (read, weight), {}))
        return products if bias is None else products + _bfloat16(bias)

    def _run_rounded(self, node: Node, site: Site, choice: Choice) -> Any:
        """Run one op on rounded inputs and weights."""
        scheme, part = choice
        operands = self._marked.operands[node]
        formats: dict[Node, Format | None] = {}
        if part is not Part.ACTIVATION:
            how = self._rounding.weight_format(site, scheme)
            formats |= dict.fromkeys(operands.weights, how)
        if part is not Part.WEIGHT:
            formats |= {
                source: self._rounding.read_format(site, scheme, source.name)
                for source in operands.reads
            }

        def read(source: Node) -> Any:
            value, how = self.env[source], formats.get(source)
            return value if how is None else self.round(source, how, value)

        args: Any = map_arg(node.args, read)
        kwargs: Any = map_arg(node.kwargs, read)
        if scheme is Scheme.BF16 and part is Part.BOTH:
            return self.run_bfloat16(node, args, kwargs)
        is_linear = site.kind is OpKind.LINEAR
        if is_linear and scheme is Scheme.INT8_WEIGHT_ONLY_BF16 and part is Part.BOTH:
            return self.add_in_bfloat16(node, args, kwargs)
        return self.call_function(node.target, args, kwargs)

    def _written(self, node: Node, value: Any) -> Any:
        """Round the result of a site whose kernel writes no wider format."""
        site = self._marked.lasts.get(node)
        choice = self.choices.get(site.name) if site else None
        if site is None or choice is None or choice[1] is Part.WEIGHT:
            return value
        how = self._rounding.write_format(site, choice[0], node.name)
        if how is None:
            return value
        return pytree.tree_map(
            lambda item: self.round(node, how, item) if is_float_tensor(item) else item, value
        )


class TrainableGraph(RoundedGraph):
    """The same with gradients that pass straight through rounding; bf16 ops compute in fp32."""

    def round(self, source: Node, how: Format, value: Tensor) -> Tensor:  # noqa: ARG002
        """Round what a node gives."""
        return round_straight(how, value)

    def run_bfloat16(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Run one op in fp32."""
        return self.call_function(node.target, args, kwargs)

    def add_in_bfloat16(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Run a linear layer in fp32."""
        return self.call_function(node.target, args, kwargs)


def is_float_tensor(value: object) -> bool:
    """Whether it is a tensor of floats."""
    return isinstance(value, Tensor) and value.is_floating_point()


def _to_bfloat16(value: Any) -> Any:
    return value.to(torch.bfloat16) if is_float_tensor(value) else value


def _bfloat16(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16).float()


def _to_float(value: Any) -> Any:
    return value.float() if is_float_tensor(value) else value
