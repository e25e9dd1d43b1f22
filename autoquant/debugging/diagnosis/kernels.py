"""Native against reference, op by op: does each kernel compute what its plan says?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from autoquant.backends.protocol import Backend, BuildRequest, Executable, Target
from autoquant.core.findings.diagnosis import KernelCheck
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import FOLLOWING_KINDS, Site
from autoquant.debugging.diagnosis.agreement import Agreement, Reference
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.handing_out import HandingOut, hand_out
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounded_graph import Choices, RoundedGraph, choices_of
from autoquant.model.numerics.rounding import SchemeRounding


@dataclass(frozen=True, slots=True, eq=False)
class HandedOut:
    """A plan built once more, so that every op hands out what it computes.

    Attributes:
        marked: The float graph with its sites marked.
        handing: The same graph, as the target was given it.
        backend: Built it, and runs it.
        executable: What was built.
        plan: What of the plan runs, here or where the model hands out its outputs alone.
    """

    marked: SiteNodes
    handing: HandingOut
    backend: Backend
    executable: Executable
    plan: Plan

    def run(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """What the target gives, by node of the float graph."""
        given = self.backend.run(self.executable.module, inputs)
        return dict(zip(self.handing.sites, given, strict=True))


def build_handed_out(
    target: Target, request: BuildRequest, marked: SiteNodes, plan: Plan, given: Executable
) -> HandedOut:
    """Build a plan of a model whose outputs are the results of all its sites.

    The target is asked as for any other model, so that a backend needs nothing for it. What it
    fuses across sites it does not fuse here; and what follows an op in integers may run in floats
    here, or the other way round: it is then judged by the coarser of the two.

    Raises:
        BackendError: The target refuses the plan, or runs something else.
        ModelError: It cannot convert such a model.
    """
    handing = hand_out(request.captured, marked)
    captured = handing.captured
    backend = target.open_backend(
        replace(request, model=captured.graph, captured=captured, timed=request.example)
    )
    executable = backend.build(plan)
    pairs = zip(given.runs(plan).assignment, executable.runs(plan).assignment, strict=True)
    runs = {name: here if there is Scheme.FP32 else there for (name, there), (_, here) in pairs}
    return HandedOut(marked, handing, backend, executable, Plan.of(runs))


def check_kernels(
    built: HandedOut, rounding: SchemeRounding, batches: Iterable[tuple[Tensor, ...]]
) -> tuple[KernelCheck, ...]:
    """Compare every op of a built plan with its reference numerics on the same inputs.

    What the target computed before an op goes through the float op, with inputs and weights rounded
    as the plan's scheme says, and unrounded. So nothing that happened upstream counts; packed
    weights, biases, scales of accumulators, paddings and kernels do. `agreement` says what rounding
    explains.

    Returns:
        One check for every site, in graph order; an activation that runs within the kernel of
        another site counts there.
    """
    found: dict[str, Agreement] = defaultdict(Agreement)
    with torch.no_grad():
        for inputs in batches:
            given = built.run(inputs)
            rounded = _on_given(built, rounding, choices_of(built.plan), given, inputs)
            exact = _on_given(built, rounding, {}, given, inputs)
            for name, site in built.handing.sites.items():
                scheme, grids = built.plan[site.name], _grids(built, rounding, name, site)
                reference = Reference(site.kind, scheme, rounded[name], exact[name], grids)
                found[site.name].add(given[name], reference)
    return tuple(
        KernelCheck(site=name, scheme=built.plan[name], roundings=seen.worst, share=seen.share)
        for name, seen in found.items()
    )


def _grids(built: HandedOut, rounding: SchemeRounding, name: str, site: Site) -> tuple[Grid, ...]:
    """Grids on which an op may keep its result: its own; a pool or an activation what it reads."""
    roots = [root for root, other in built.marked.roots.items() if other is site]
    follows = [roots[0]] if site.kind in FOLLOWING_KINDS else []
    read = [source.name for root in follows for source in built.marked.operands[root].reads]
    found = (rounding.result_grid(built.plan[site.name], item) for item in (name, *read))
    return tuple(grid for grid in found if grid is not None)


def _on_given(
    built: HandedOut,
    rounding: SchemeRounding,
    choices: Choices,
    given: Mapping[str, Tensor],
    inputs: tuple[Tensor, ...],
) -> Mapping[str, Tensor]:
    """What each site computes on what the target gave before it."""
    run = _OnGiven(built.marked, rounding, choices, given)
    run.run(*inputs)
    return run.computed


class _OnGiven(RoundedGraph):
    """Runs the float graph, and goes on from every site with what the target gave there."""

    def __init__(
        self,
        marked: SiteNodes,
        rounding: SchemeRounding,
        choices: Choices,
        given: Mapping[str, Tensor],
    ) -> None:
        super().__init__(marked, rounding, choices)
        self.computed: dict[str, Tensor] = {}
        self._given = given

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if n.name not in self._given:
            return value
        self.computed[n.name] = value
        return self._given[n.name]
