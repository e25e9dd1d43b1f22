"""A plan by reference numerics beside its float model: every tensor as its readers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.comparing.pairing import OpPair
from autoquant.comparing.runs import FloatWeight, Run, See, StoredWeight, first_tensor
from autoquant.core.findings.layers import TensorFormat
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.aten import RESHAPING, op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import SiteNodes, mark_sites
from autoquant.model.numerics.rounded_graph import RoundedGraph, choices_of
from autoquant.model.numerics.rounding import Cast, Format, SchemeRounding
from autoquant.model.numerics.weight_grids import GroupGrid, WeightGrid

_NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, eq=False)
class ReferencePlan:
    """A plan of a captured graph."""

    captured: Capture
    plan: Plan
    rounding: SchemeRounding
    notices = ()

    @property
    def kind(self) -> Kind:
        """Simulated in float."""
        return Kind.EMULATED

    @cached_property
    def marked(self) -> SiteNodes:
        """The graph with its sites marked."""
        return mark_sites(self.captured)

    def pairs(self) -> tuple[OpPair, ...]:
        """The inputs that are rounded, and every call of a site, in execution order."""
        calls = {call.nodes[-1]: call for call in self.captured.calls}
        found = []
        for node in self.captured.graph.graph.nodes:
            if node.op == "placeholder" and self.seen_as(node) is not None:
                name = f"input {node.name}"
                scheme = self._reader_scheme(node)
                found.append(OpPair(name, 0, None, scheme, (node.name,), (node.name,), ()))
            elif node.name in calls:
                site, call, group = calls[node.name]
                scheme = self.plan[site.name]
                found.append(OpPair(site.name, call, site, scheme, group, group, ()))
        return tuple(found)

    def start(self, see: See, *, feeds_float: bool) -> Run:
        """Make ready to run beside the float graph."""
        return ReferenceRun(self, see, feeds_float=feeds_float).beside

    def type_of(self, pair: OpPair) -> str:
        """The functions of an op, which are those of the float graph."""
        return type_of(self.captured.graph, pair.found)

    def format_of(self, pair: OpPair, found: Tensor) -> TensorFormat:  # noqa: ARG002
        """The format in which an op's tensor is read."""
        return format_of_reads(self.shown_as(pair), pair.scheme)

    def shown_as(self, pair: OpPair) -> Format | None:
        """How the output of a quantized op is seen; what an fp32 op gives is its own."""
        if pair.site is not None and pair.scheme is Scheme.FP32:
            return None
        return self.seen_as(self.captured.nodes[pair.output])

    def _reader_scheme(self, node: Node) -> Scheme | None:
        """Scheme of the first op that reads an input, for which the input is rounded."""
        roots = self.marked.roots
        return next((self.plan[roots[item].name] for item in node.users if item in roots), None)

    def seen_as(self, node: Node) -> Format | None:
        """How the first quantized reader sees what a node gives; None: as it is.

        A reader behind ops that only move values counts as one.
        """
        marked = self.marked
        for reader in node.users:
            if op_name(reader) in RESHAPING and reader not in marked.roots:
                how = self.seen_as(reader)
                if how is not None:
                    return how
            site = marked.roots.get(reader)
            if site is not None and node in marked.operands[reader].reads:
                how = self.rounding.read_format(site, self.plan[site.name], node.name)
                if how is not None:
                    return how
        return None

    def stored(self, weight: FloatWeight) -> StoredWeight:
        """What the plan makes of a weight."""
        site, name = self.marked.roots[weight.root], op_name(weight.root)
        how = self.rounding.weight_format(site, self.plan[site.name])
        values = weight.values if how is None else how(weight.values)
        form = _weight_format(how, weight.values)
        return StoredWeight(values, form, (name, f"{name} (reference)"))


class ReferenceRun(RoundedGraph):
    """Computes a plan, and shows each paired op's output beside the float one."""

    def __init__(
        self,
        reference: ReferencePlan,
        see: See,
        *,
        feeds_float: bool,
    ) -> None:
        super().__init__(reference.marked, reference.rounding, choices_of(reference.plan))
        self._see = see
        self._feeds_float = feeds_float
        self._at = {reference.captured.nodes[pair.output]: pair for pair in reference.pairs()}
        self._seen_as = {node: reference.shown_as(pair) for node, pair in self._at.items()}
        self._expected: Mapping[str, Any] = {}

    def beside(self, inputs: tuple[Tensor, ...], expected: Mapping[str, Any]) -> Any:
        """Run one batch beside what the float graph gave; gives the outputs."""
        self._expected = expected
        return self.run(*inputs)

    def run_node(self, n: Node) -> Any:
        """Run a node; at an op's output, show it and perhaps replace it."""
        value = super().run_node(n)
        pair = self._at.get(n)
        if pair is None:
            return value
        expected = self._expected[pair.expected[-1]]
        first, second = first_tensor(expected), first_tensor(value)
        if first is not None and second is not None:
            how = self._seen_as[n]
            self._see(pair, first, second if how is None else how(second))
        return expected if self._feeds_float else value


def format_of_reads(how: Format | None, scheme: Scheme | None) -> TensorFormat:
    """The format in which a tensor is read."""
    if isinstance(how, Grid):
        dtype = "int16" if how.low < 0 else "quint8"
        return TensorFormat(dtype, how.scale, how.zero_point, how.lowest, how.highest, 1)
    if isinstance(how, Cast):
        return TensorFormat(_NAMES[how.dtype])
    if scheme in (Scheme.FP16, Scheme.BF16):
        return TensorFormat("float16" if scheme is Scheme.FP16 else "bfloat16")
    return TensorFormat("float32")


def _weight_format(how: Format | None, weight: Tensor) -> TensorFormat:
    if isinstance(how, WeightGrid):
        scale = how.scale(weight)
        dtype = "qint8" if how.low == -128 else "int16"
        return TensorFormat(dtype, float(scale.max()), scale_count=scale.numel())
    if isinstance(how, GroupGrid):
        scale = how.codes(weight)[1].abs()
        return TensorFormat("int4", float(scale.max()), scale_count=scale.numel())
    if isinstance(how, Cast):
        return TensorFormat(_NAMES[how.dtype])
    if how is None or not is_float_weight(weight):
        return TensorFormat("float32")
    step = float((weight.amax(1) - weight.amin(1)).max()) / 255
    return TensorFormat("quint8", step, scale_count=len(weight))


def is_float_weight(weight: Tensor) -> bool:
    """Whether rows of a weight can have scales of their own."""
    return weight.is_floating_point() and weight.ndim == 2


def type_of(model: GraphModule, names: tuple[str, ...]) -> str:
    """The functions of an op: `conv2d + relu`."""
    nodes = {node.name: node for node in model.graph.nodes if node.name in names}
    return " + ".join(_type_of(nodes[name]) for name in names)


def _type_of(node: Node) -> str:
    if node.op == "placeholder":
        return "input"
    return op_name(node) or getattr(node.target, "__name__", str(node.target))
