"""What a pair shows: how its error is spread, its kernels, its ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from autoquant.backends.protocol import Executable
from autoquant.backends.targets import load_target
from autoquant.core.findings.badcases import BadCases
from autoquant.core.findings.diagnosis import KernelCheck, Pattern
from autoquant.core.findings.range_audit import RangeAudit
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.progress import Progress
from autoquant.core.sites import Site
from autoquant.debugging.badcases import runs_of
from autoquant.debugging.diagnosis.grids import BuiltGrids, planned_grids, read_grids
from autoquant.debugging.diagnosis.kernel_faults import KernelFault, weigh_kernels
from autoquant.debugging.diagnosis.kernels import BuiltPlan, check_kernels
from autoquant.debugging.diagnosis.pattern import (
    bad_candidates,
    loud_samples,
    pattern_of,
    typical_limit_db,
)
from autoquant.debugging.diagnosis.probe_set import ProbeSet, build_probe
from autoquant.debugging.diagnosis.range_audit import audit_ranges
from autoquant.debugging.samples.find import find_bad_cases
from autoquant.debugging.samples.sample_error import energies
from autoquant.errors import BackendError
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.data_set import pick_samples, sizes_of
from autoquant.model.data.outputs import output_rows
from autoquant.model.graph.site_nodes import SiteNodes, mark_sites
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.searching.measuring.evaluator import build_backend
from autoquant.searching.pair import Pair

Look = Callable[[Executable], BuiltPlan | None]

PROBE_SAMPLES = 64
"""Samples on which what-ifs are tried: the first of the data."""
KERNEL_SAMPLES = 16
"""Samples on which kernels are compared with their reference, which computes in float64."""
BAD_CASES = 16
"""And this many of the worst, where single ones are bad."""


@dataclass(frozen=True, slots=True, eq=False)
class Symptoms:
    """What was seen of a pair.

    Attributes:
        pair: Float model and plan.
        plan: What of it really runs.
        cases: Its bad cases.
        marked: The float graph, its sites marked.
        ranges: Of its tensors.
        grids: Of its tensors, as they run.
        limit_db: Below this the median sample is bad.
        pattern: How the error is spread.
        bad: The bad samples, where single ones are.
        probe: The samples on which what-ifs are tried.
        fault: Its wrong kernels; None: there are none, or they cannot be looked at one by one.
        audits: Of its tensors.
    """

    pair: Pair
    plan: Plan
    cases: BadCases
    marked: SiteNodes
    ranges: TensorRanges
    grids: BuiltGrids
    limit_db: float
    pattern: Pattern
    bad: tuple[int, ...]
    probe: ProbeSet
    fault: KernelFault | None
    audits: tuple[RangeAudit, ...]


def observe(pair: Pair, batches: Sequence[Batch], progress: Progress) -> Symptoms:
    """Run the data through both models, check kernels, and audit ranges."""
    samples = sum(sizes_of(batches))
    prepared = pair.prepared
    marked = mark_sites(prepared.captured)
    ranges = TensorRanges(prepared.captured, prepared.statistics, prepared.settings.build)
    look = partial(_look_into, plan=pair.plan, marked=marked, rounding=SchemeRounding(ranges))
    plan, built = pair.executable.runs(pair.plan), look(pair.executable)
    with progress.stage("comparing outputs", samples) as advance:
        cases = find_bad_cases(*runs_of(pair), batches, BAD_CASES, advance)
    planned = planned_grids(marked, plan, SchemeRounding(ranges))
    grids = BuiltGrids(planned) if built is None else _grids(pair, built, planned)
    limit = typical_limit_db(grids.by_tensor.values())
    bad = _bad_samples(pair, batches, cases, limit)
    pattern = pattern_of(cases, limit, bad)
    bad = bad if pattern is Pattern.SENSITIVE else ()
    probe = build_probe(batches, PROBE_SAMPLES, bad, pattern)
    with progress.stage("checking kernels", None):
        fault = None if built is None else _kernel_fault(pair, built, look, probe)
    with progress.stage("auditing ranges", samples) as advance:
        audits = audit_ranges(marked, prepared.statistics, grids.by_tensor, batches, advance)
    return Symptoms(
        pair=pair,
        plan=plan,
        cases=cases,
        marked=marked,
        ranges=ranges,
        grids=grids,
        limit_db=limit,
        pattern=pattern,
        bad=bad,
        probe=probe,
        fault=fault,
        audits=audits,
    )


def energies_of(pair: Pair, batch: Batch) -> tuple[Tensor, Tensor]:
    """Energy of signal and noise of each sample, as the pair runs here."""
    expected, found = (output_rows(run(batch.inputs), batch) for run in runs_of(pair))
    return energies(expected, found)


def sites_of(pair: Pair) -> dict[str, Site]:
    """The pair's sites by name."""
    return {site.name: site for site in pair.prepared.captured.sites}


def dynamic_sites(pair: Pair) -> frozenset[str]:
    """Sites that the pair's target runs in int8_dynamic, by name."""
    return frozenset(
        site.name
        for site in pair.prepared.captured.sites
        if pair.backend.support(site, Scheme.INT8_DYNAMIC) is Support.NATIVE
    )


def _look_into(
    executable: Executable, *, plan: Plan, marked: SiteNodes, rounding: SchemeRounding
) -> BuiltPlan | None:
    """What each kernel of a built plan computes; None where the engine does not show it."""
    if executable.shown is None:
        return None
    return BuiltPlan(executable.shown, marked, executable.runs(plan), rounding)


def _grids(pair: Pair, built: BuiltPlan, planned: Mapping[str, Grid]) -> BuiltGrids:
    """Grids as they run; of what kernels round by themselves as they were given to them."""
    prepared = pair.prepared
    small = prepared.subject.calibration[0].head(2).inputs
    with built.shown.kernels():
        found = read_grids(built.graph, small)
    return replace(found, by_tensor={**planned, **found.by_tensor})


def _kernel_fault(pair: Pair, built: BuiltPlan, look: Look, probe: ProbeSet) -> KernelFault | None:
    """What wrong kernels do."""
    checks = _check(built, probe)
    wrong = [check.site for check in checks if not check.is_right]
    others = _right_engines(pair, look, probe, wrong)
    with built.shown.kernels():
        return weigh_kernels(checks, pair.prepared.subject.flat, built, probe, others)


def _right_engines(pair: Pair, look: Look, probe: ProbeSet, wrong: Sequence[str]) -> Iterator[str]:
    """Other engines of this machine that run the plan, with right kernels at these ops.

    Each as what a job says of the backend to choose it: `engine=fbgemm`.
    """
    prepared = pair.prepared
    build = prepared.settings.build
    for variant in load_target(build.backend).variants().values():
        if variant.options.items() <= build.options.items():
            continue
        settings = prepared.settings.building(options=variant.options)
        subject, captured, statistics = prepared.subject, prepared.captured, prepared.statistics
        try:
            backend = build_backend(subject, captured, statistics, settings)
            built = look(backend.build(pair.plan))
        except BackendError:
            continue
        if built is not None:
            checks = _check(built, probe)
            if all(check.is_right for check in checks if check.site in wrong):
                yield ", ".join(f"{key}={value}" for key, value in variant.options.items())


def _check(built: BuiltPlan, probe: ProbeSet) -> tuple[KernelCheck, ...]:
    few = take_samples([probe.batch], KERNEL_SAMPLES)
    with built.shown.kernels():
        return check_kernels(built, [batch.inputs for batch in few])


def _bad_samples(
    pair: Pair, batches: Sequence[Batch], cases: BadCases, limit_db: float
) -> tuple[int, ...]:
    candidates = bad_candidates(cases, limit_db)
    if not candidates:
        return ()
    picked = pick_samples(batches, candidates)
    noise = torch.cat([energies_of(pair, batch)[1] for batch in picked])
    loud = loud_samples(cases, sorted(candidates), noise)
    return tuple(index for index in candidates if index in loud)
