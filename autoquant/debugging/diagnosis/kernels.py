"""Native against reference, op by op: does each kernel compute what its plan says?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from autoquant.backends.protocol import BuiltGraph
from autoquant.core.findings.diagnosis import KernelCheck
from autoquant.core.plan import Plan
from autoquant.debugging.diagnosis.agreement import Agreement, compare_values
from autoquant.debugging.diagnosis.grids import grid_of
from autoquant.debugging.diagnosis.reference_op import Arrived, Call, ReferenceOps
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.built_graph import FLOAT_NODE, ROUNDS, holds
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounding import SchemeRounding


@dataclass(frozen=True, slots=True, eq=False)
class BuiltPlan:
    """A plan beside what it was built from.

    Attributes:
        shown: What was built.
        marked: The float graph with its sites marked.
        plan: What of it really runs.
        rounding: Rounds tensors as the plan's schemes do.
    """

    shown: BuiltGraph
    marked: SiteNodes
    plan: Plan
    rounding: SchemeRounding

    @property
    def graph(self) -> GraphModule:
        """The graph that was built."""
        return self.shown.graph


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Nodes of the built graph that compute one call of a site; the last one gives its result."""

    call: Call
    last: Node


def check_kernels(
    built: BuiltPlan, batches: Iterable[tuple[Tensor, ...]]
) -> tuple[KernelCheck, ...]:
    """Compare every op of a built plan with its reference computation on the same inputs.

    Each op of the built graph runs on what the built graph gives it. Those very values,
    dequantized, go through the float op in float64, with its float weight rounded as the plan's
    scheme says. So nothing that happened upstream counts, and packed weights, biases, scales of
    accumulators, paddings and kernels do. `agreement` says what rounding explains.

    Returns:
        One check for every site that could be compared, in graph order; an activation that runs
        within the kernel of another site counts there.
    """
    spy = _Spy(built)
    with torch.no_grad():
        for inputs in batches:
            spy.run(*inputs)
    return tuple(
        KernelCheck(
            site=name,
            scheme=built.plan[name],
            roundings=spy.found[name].worst,
            share=spy.found[name].share,
        )
        for name in dict.fromkeys(site.name for site in built.marked.roots.values())
        if name in spy.found
    )


def run_with_references(
    built: BuiltPlan, inputs: tuple[Tensor, ...], sites: Collection[str]
) -> Any:
    """Run a built plan with the reference in place of the kernels of some sites.

    Their outputs are rounded to the scales that the kernels have.
    """
    spy = _Spy(built, sites)
    with torch.no_grad():
        return built.shown.nest(spy.run(*inputs))


def _groups(built: BuiltPlan) -> dict[Node, _Group]:
    """By node of the built graph that computes a call of a site, the call."""
    computing: dict[str, list[Node]] = defaultdict(list)
    for node in built.graph.graph.nodes:
        if node.op == "call_function" and FLOAT_NODE in node.meta:
            computing[node.meta[FLOAT_NODE]].append(node)
    groups: dict[Node, _Group] = {}
    for root, site in built.marked.roots.items():
        nodes = computing.get(root.name, [])
        giving = [node for node in nodes if holds(node)]
        if not giving:
            continue
        call = Call(site, built.plan[site.name], root, holds(giving[-1])[0])
        groups |= dict.fromkeys(nodes, _Group(call, giving[-1]))
    return groups


class _Spy(Interpreter):
    """Runs the built graph, and behind every op its reference."""

    def __init__(self, built: BuiltPlan, replaced: Collection[str] = ()) -> None:
        super().__init__(built.graph)
        self.found: dict[str, Agreement] = defaultdict(Agreement)
        self._replaced = frozenset(replaced)
        self._groups = _groups(built)
        self._reference = ReferenceOps(built.marked, built.rounding)
        self._arrived: dict[_Group, dict[str, Arrived]] = defaultdict(dict)

    def run_node(self, n: Node) -> Any:
        group = self._groups.get(n)
        if group is None:
            return super().run_node(n)
        for source in n.all_input_nodes:
            if self._groups.get(source) is not group:
                arrived = _arrive(source, self.env[source])
                self._arrived[group] |= dict.fromkeys(holds(source), arrived)
        for name, grid in n.meta.get(ROUNDS, {}).items():
            value = grid(self._arrived[group][name].value.float()).double()
            self._arrived[group][name] = Arrived(value, is_rounded=True)
        value = super().run_node(n)
        return self._compare(group, n, value) if n is group.last else value

    def _compare(self, group: _Group, node: Node, value: Any) -> Any:
        """Take in one call; gives what the graph goes on with."""
        references = self._reference.compute(group.call, self._arrived.pop(group))
        given = value if isinstance(value, tuple) else (value,)
        if len(references) != len(given) or not all(isinstance(it, Tensor) for it in given):
            return value
        grid = grid_of(node, value)
        name = group.call.site.name
        for found, reference in zip(given, references, strict=True):
            compare_values(self.found[name], found, grid, reference)
        if name not in self._replaced:
            return value
        right = tuple(_like(it, grid, one.value) for it, one in zip(given, references, strict=True))
        return right if isinstance(value, tuple) else right[0]


def _arrive(node: Node, value: Any) -> Arrived:
    """A tensor as the real numbers that it stands for."""
    if not isinstance(value, Tensor) or value.is_mkldnn:  # a packed weight
        return Arrived(value, is_rounded=False)
    grid = grid_of(node, value)
    if value.is_quantized:
        value = value.dequantize()
    elif grid is not None and not value.is_floating_point():
        value = (value.double() - grid.zero_point) * grid.scale
    return Arrived(value.double() if value.is_floating_point() else value, grid is not None)


def _like(value: Tensor, grid: Grid | None, reference: Tensor) -> Tensor:
    """The reference in the kernel's own format and scale."""
    if value.is_quantized:
        return torch.quantize_per_tensor(
            reference.float(), value.q_scale(), value.q_zero_point(), value.dtype
        )
    if value.dtype is torch.uint8 and grid is not None:
        levels = (reference / grid.scale).round() + grid.zero_point
        return levels.clamp(grid.low, grid.high).to(value.dtype)
    return reference.to(value.dtype)
