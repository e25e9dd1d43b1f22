"""Runs a graph in float, under a plan, or again from where one knob changes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node

from autoquant.model.numerics.rounded_graph import Choices, RoundedGraph
from autoquant.model.numerics.rounding import Format, SchemeRounding
from autoquant.searching.ranking.marks import MarkedGraph

Values = dict[Node, Any]
Weights = dict[tuple[Node, Format], Tensor]


@dataclass(slots=True)
class Shared:
    """Rounded tensors that several runs read: each is rounded once.

    Attributes:
        inputs: Of one chunk's values, by the node that gives them.
        weights: By the node that gives them.
    """

    inputs: Weights = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)


class RoundedRun(RoundedGraph):
    """Computes values of a graph with some of its sites rounded, sharing what does not change."""

    def __init__(self, marked: MarkedGraph, rounding: SchemeRounding) -> None:
        super().__init__(marked.sites, rounding, {}, keeps_values=True)
        self._graph = marked
        self._before: Values = {}
        self._shared = Shared()

    def run_float(self, inputs: tuple[Tensor, ...]) -> Values:
        """Every value of the float model."""
        self.choices = {}
        self.run(*inputs)
        return dict(self.env)

    def run_plan(self, float_values: Values, choices: Choices) -> Values:
        """Every value under a plan."""
        self._start(float_values, choices, Shared())
        for node in self._graph.nodes:
            if node.op not in ("placeholder", "get_attr"):
                self.env[node] = self.run_node(node)
        return dict(self.env)

    def run_again(
        self, values: Values, nodes: Collection[Node], choices: Choices, shared: Shared
    ) -> Any:
        """The outputs after a change, over all values before it; `nodes` are what it reaches."""
        self._start(values, choices, shared)
        computed: set[Node] = set()
        for node in nodes:
            self.env[node] = self.run_node(node)
            computed.add(node)
            for done in self._graph.last_reads[node]:
                if done in computed:  # its memory is warm: the next op may have it
                    self.env[done] = None
        return self.env[self._graph.nodes[-1]]

    def round(self, source: Node, how: Format, value: Tensor) -> Tensor:
        """Round what a node gives, once where it is what it was before the change."""
        if value is not self._before.get(source):
            return how(value)
        is_constant = source.op == "get_attr"
        known = self._shared.weights if is_constant else self._shared.inputs
        if (source, how) not in known:
            known[source, how] = how(value)
        return known[source, how]

    def _start(self, values: Values, choices: Choices, shared: Shared) -> None:
        self.env = dict(values)
        self.choices = choices
        self._before, self._shared = values, shared
