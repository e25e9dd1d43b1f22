"""Native against reference, op by op: does each kernel compute what its plan says?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from autoquant.analysis.diagnosis.agreement import Agreement, compare_values
from autoquant.analysis.diagnosis.reference_op import Call, ReferenceOps
from autoquant.core.diagnosis import KernelCheck
from autoquant.core.plan import Plan
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.conversion import FLOAT_NODE
from autoquant.model.torch_ao.rounding import SchemeRounding


@dataclass(frozen=True, slots=True, eq=False)
class BuiltPlan:
    """A plan beside what it was built from.

    Attributes:
        module: Of an `Executable`: the converted graph.
        captured: The float model.
        plan: What was built.
        rounding: Rounds weights as the plan's schemes do.
    """

    module: GraphModule
    captured: Capture
    plan: Plan
    rounding: SchemeRounding


@dataclass(frozen=True, slots=True)
class _Group:
    """Nodes of the built graph that compute one call of a site."""

    site: str
    call: Call
    root: Node
    last: Node


def check_kernels(
    built: BuiltPlan, batches: Iterable[tuple[Tensor, ...]]
) -> tuple[KernelCheck, ...]:
    """Compare every op of a built plan with its reference computation on the same inputs.

    Each op of the built graph runs on what the built graph gives it. Those very values,
    dequantized, go through the float op in float64, with its float weight rounded as the plan's
    scheme says. So nothing that happened upstream counts, and packed weights, biases, scales of
    accumulators, paddings and kernels do. `agreement` says what rounding explains.

    Args:
        built: The plan.
        batches: Inputs; run with the plan's engine selected.

    Returns:
        One check for every site that could be compared, in graph order.
    """
    spy = _Spy(built)
    with torch.no_grad():
        for inputs in batches:
            spy.run(*inputs)
    return tuple(
        KernelCheck(
            site=site.name,
            scheme=built.plan[site.name],
            roundings=spy.found[site.name].worst,
            share=spy.found[site.name].share,
        )
        for site in built.captured.sites
        if site.name in spy.found
    )


def run_with_references(
    built: BuiltPlan, inputs: tuple[Tensor, ...], sites: Collection[str]
) -> Any:
    """Run a built plan with the reference in place of the kernels of some sites.

    Their outputs are rounded to the scales that the kernels have.

    Args:
        built: The plan.
        inputs: One batch; run with the plan's engine selected.
        sites: Whose kernels do not count.

    Returns:
        What the module returns.
    """
    spy = _Spy(built, sites)
    with torch.no_grad():
        return spy.run(*inputs)


def _groups(built: BuiltPlan) -> list[_Group]:
    """Find the nodes of each site in the built graph by the float names that they carry."""
    named: dict[str, Node] = {}
    for node in built.module.graph.nodes:
        if node.op.startswith("call") and node.target != "dequantize":
            named.setdefault(node.meta.get(FLOAT_NODE, ""), node)
    return [
        _Group(
            site=site.name,
            call=Call(site, built.plan[site.name], members),
            root=named[members[0]],
            last=next(named[name] for name in reversed(members) if name in named),
        )
        for site in built.captured.sites
        for members in built.captured.members[site.name]
        if members[0] in named
    ]


class _Spy(Interpreter):
    """Runs the built graph, and behind every op its reference."""

    def __init__(self, built: BuiltPlan, replaced: Collection[str] = ()) -> None:
        super().__init__(built.module)
        groups = _groups(built)
        self._replaced = frozenset(replaced)
        self.found: dict[str, Agreement] = defaultdict(Agreement)
        self._roots: Mapping[Node, _Group] = {group.root: group for group in groups}
        self._lasts: Mapping[Node, _Group] = {group.last: group for group in groups}
        self._reference = ReferenceOps(built.captured, built.rounding)
        self._arrived: dict[str, list[Any]] = {}

    def run_node(self, n: Node) -> Any:
        if n in self._roots:
            call = self._roots[n].call
            self._arrived[call.members[0]] = [self.env[item] for item in activations_of(n)]
        value = super().run_node(n)
        group = self._lasts.get(n)
        return value if group is None else self._compare(group, value)

    def _compare(self, group: _Group, value: Any) -> Any:
        """Take in one call; gives what the graph goes on with."""
        arrived = self._arrived.pop(group.call.members[0])
        reference = self._reference.compute(group.call, arrived)
        if reference is None:
            return value
        compare_values(self.found[group.site], value, reference)
        is_replaced = group.site in self._replaced
        return _like(value, reference.value) if is_replaced else value


def _like(value: Tensor, reference: Tensor) -> Tensor:
    """The reference in the kernel's own format and scale."""
    if not value.is_quantized:
        return reference.to(value.dtype)
    return torch.quantize_per_tensor(
        reference.float(), value.q_scale(), value.q_zero_point(), value.dtype
    )


def activations_of(node: Node) -> list[Node]:
    """What an op reads, each as often as it does, without scales and parameters."""
    read: list[Node] = []
    torch.fx.node.map_arg((node.args, node.kwargs), read.append)
    return [item for item in read if item.op != "get_attr"]
