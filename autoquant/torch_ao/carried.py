"""What of a plan a QConfigMapping carries, as torch itself shows it: prepared, converted, run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.ao.quantization import QConfigMapping
from torch.fx import GraphModule, Node

from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Mode, Scheme
from autoquant.core.quiet import no_warnings
from autoquant.core.sites import OpKind
from autoquant.errors import PlanError
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.trees import copied
from autoquant.model.graph.captured import Capture
from autoquant.torch_ao.conversion import convert, prepare, using_engine
from autoquant.torch_ao.mapping import build_mapping, split_methods
from autoquant.torch_ao.matching import Matched
from autoquant.torch_ao.qconfig import NO_QCONFIG
from autoquant.torch_ao.readback import Execution, Spy, float_name, observe_execution
from autoquant.torch_ao.scales import UnseenTensorError, fix_scales

_TRIES = 12
"""Conversions of one plan; each leaves out what the one before could not run."""


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """A plan in torch.ao's hands.

    Attributes:
        mapping: For `prepare_fx`.
        plan: What it carries: the plan, in fp32 where torch cannot follow.
        left: By site that torch leaves in float, the reason.
        drawn: Sites that should be in fp32 and run in int8, since their neighbours do.
        converted: The converted model.
        spy: Has run it on the example.
    """

    mapping: QConfigMapping
    plan: Plan
    left: Mapping[str, str]
    drawn: tuple[str, ...]
    converted: GraphModule
    spy: Spy


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What stays the same for all plans of a search.

    Attributes:
        model: The float model; never changed.
        captured: Its exported graph.
        matched: Beside that of torch.fx.
        ranges: Grids of its tensors.
        build: Observers and bits.
        inputs: One example, as the placeholders of torch.fx's graph take it.
        engine: A quantized engine of torch.
    """

    model: nn.Module
    captured: Capture
    matched: Matched
    ranges: TensorRanges
    build: BuildSettings
    inputs: Sequence[Any]
    engine: str


def carry(plan: Plan, setting: Setting, left: Mapping[str, str]) -> Carried:
    """Build the mapping of a plan, and leave out what torch does not run as planned."""
    left = {**_unreachable(plan, setting), **left}
    problem = "it follows no mapping of this plan"
    for _ in range(_TRIES):
        kept = _without(plan, left)
        mapping = build_mapping(setting.matched, setting.captured.by_name, kept, setting.build)
        attempt = _try(mapping, setting)
        if attempt.spy is not None and attempt.problem is None:
            runs = observe_execution(attempt.spy, setting.matched.sites)
            refused = _not_honoured(kept, setting, runs)
            if not refused:
                drawn = [
                    name
                    for name, run in runs.items()
                    if kept[name] is Scheme.FP32 and run.kernel is Scheme.INT8
                ]
                converted: Any = attempt.spy.module
                return Carried(mapping, kept, left, tuple(drawn), converted, attempt.spy)
        else:
            problem = attempt.problem or problem
            refused = _guilty(attempt, kept, left, setting)
        if not refused:
            break
        left.update(refused)
    raise PlanError(
        f"torch.ao cannot run plan {plan.digest}: {problem}",
        hint="use quantize(model), which needs no torch.ao",
    )


def _guilty(
    attempt: _Attempt, plan: Plan, left: Mapping[str, str], setting: Setting
) -> dict[str, str]:
    """What to leave out next: the op that failed; else what reads those that were left out.

    torch.ao's lowering takes an op in float between a dequantize and a quantize for an op in
    int8, and fails where it has no kernel. Without the quantize behind it, it stays in float.
    """
    culprit = attempt.culprit
    if culprit is not None and plan[culprit] is not Scheme.FP32:
        return {culprit: f"torch.ao fails: {attempt.problem}"}
    written = {group[-1] for name in left for group in setting.captured.members[name]}
    roots = setting.captured.roots
    return {
        roots[node.name].name: "torch.ao cannot keep what it reads in fp32 between int8 ops"
        for node in setting.captured.graph.graph.nodes
        if node.name in roots
        and plan[roots[node.name].name] is not Scheme.FP32
        and written.intersection(item.name for item in node.all_input_nodes)
    }


def _unreachable(plan: Plan, setting: Setting) -> dict[str, str]:
    """Sites that no QConfig reaches, or whose QConfig would reach too much."""
    left = {name: NO_QCONFIG[scheme] for name, scheme in plan.assignment if scheme in NO_QCONFIG}
    for name, reason in setting.matched.missing.items():
        if plan[name] is not Scheme.FP32:
            left.setdefault(name, reason)
    for name in _bounded_over_float(_without(plan, left), setting):
        left[name] = "torch.ao would put the fixed range of its output on the float that it reads"
    for name in _bounded_in_joins(_without(plan, left), setting):
        left[name] = "torch.ao would put the fixed range of its output on all that it is joined to"
    kept = _without(plan, left)
    for name, reason in split_methods(setting.matched, kept).items():
        if kept[name] is not Scheme.FP32:
            left.setdefault(name, reason)
    return left


def _bounded_over_float(plan: Plan, setting: Setting) -> list[str]:
    """Sigmoids and their like in static int8 whose producer writes float."""
    return [
        site.name
        for site in setting.captured.sites
        if site.output_range is not None
        and plan[site.name] is Scheme.INT8
        and not (site.follows is not None and plan[site.follows] is Scheme.INT8)
    ]


def _bounded_in_joins(plan: Plan, setting: Setting) -> list[str]:
    """Sigmoids and their like in static int8 that an int8 concatenation joins to other grids."""
    sites, ranges = setting.captured.by_name, setting.ranges
    found = []
    for node in setting.captured.graph.graph.nodes:
        join = setting.captured.roots.get(node.name)
        if join is None or join.kind is not OpKind.CAT or plan[join.name] is not Scheme.INT8:
            continue
        parts = [part.name for part in node.all_input_nodes if ranges.knows(part.name)]
        if len({ranges.int8_grid(part) for part in parts}) > 1:
            writers = [setting.captured.site_of.get(part) for part in parts]
            found += [name for name in writers if name and sites[name].output_range is not None]
    return [name for name in found if plan[name] is Scheme.INT8]


def _without(plan: Plan, left: Mapping[str, str]) -> Plan:
    return Plan.of(
        {name: Scheme.FP32 if name in left else scheme for name, scheme in plan.assignment}
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """One conversion: what ran it, what went wrong, and at which site if that is known."""

    spy: Spy | None
    problem: str | None = None
    culprit: str | None = None


def _try(mapping: QConfigMapping, setting: Setting) -> _Attempt:
    """Prepare, fix the scales, convert and run."""
    leaf_modules = setting.matched.traced.leaf_modules
    spy: Spy | None = None
    try:
        prepared = prepare(setting.model, mapping, setting.inputs, leaf_modules)
        with no_warnings():
            fix_scales(prepared, setting.matched, setting.ranges)
        spy = Spy(convert(prepared, setting.engine))
        with using_engine(setting.engine), no_warnings(), torch.no_grad():
            spy.run(*copied(setting.inputs), enable_io_processing=False)
    except UnseenTensorError as error:
        problem = "it rounds what lies between an op and its relu: only F.relu and nn.ReLU join it"
        return _Attempt(None, problem, setting.matched.sites.get(error.node.name))
    except Exception as error:  # noqa: BLE001  torch's converter and kernels raise what they like
        text = str(error.__cause__ or error).strip().split("\n", 1)[0]
        failed = None if spy is None else spy.failed
        culprit = None if failed is None else _site_near(failed, setting)
        return _Attempt(spy, text or type(error).__name__, culprit)
    return _Attempt(spy)


def _site_near(node: Node, setting: Setting) -> str | None:
    """The site that a converted node computes, or that feeds it."""
    pending = [node]
    while pending:
        item = pending.pop(0)
        site = setting.matched.sites.get(float_name(item))
        if site is not None:
            return site
        pending.extend(item.all_input_nodes)
    return None


def _not_honoured(plan: Plan, setting: Setting, runs: Mapping[str, Execution]) -> dict[str, str]:
    """Sites that run something else than planned."""
    return {
        name: f"torch.ao runs it in {_shown(runs.get(name))}"
        for name, scheme in plan.assignment
        if scheme is not Scheme.FP32 and not _runs_as_planned(name, plan, setting, runs)
    }


def _runs_as_planned(
    name: str, plan: Plan, setting: Setting, runs: Mapping[str, Execution]
) -> bool:
    scheme, site = plan[name], setting.captured.by_name[name]
    leader = site.follows
    if name in runs and runs[name].honours(scheme):
        return True
    if leader is None:
        return False
    if name not in runs:  # runs as part of the op before it
        return plan[leader] is scheme
    return plan[leader].mode is not Mode.STATIC and runs[name].kernel is Scheme.FP32


def _shown(run: Execution | None) -> str:
    return "nothing of its own" if run is None else str(run)
