"""What a pair shows: how its error is spread, its kernels, its ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoquant.backends.targets import load_target
from autoquant.core.findings.badcases import BadCases
from autoquant.core.findings.diagnosis import Pattern
from autoquant.core.findings.range_audit import RangeAudit
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.progress import Progress
from autoquant.debugging.badcases import runs_of
from autoquant.debugging.diagnosis.grids import planned_grids
from autoquant.debugging.diagnosis.kernel_faults import KernelAudit, audit_kernels
from autoquant.debugging.diagnosis.pattern import (
    BAD_DB,
    bad_samples,
    pattern_of,
    typical_limit_db,
)
from autoquant.debugging.diagnosis.probe_set import ProbeSet, build_probe
from autoquant.debugging.diagnosis.range_audit import audit_ranges
from autoquant.debugging.diagnosis.repairs import Repairs
from autoquant.debugging.samples.find import find_bad_cases
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import sizes_of
from autoquant.model.graph.site_nodes import SiteNodes, mark_sites
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.searching.pair import Pair

PROBE_SAMPLES = 64
"""Samples on which what-ifs are tried: the first of the data."""
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
        grids: Of its tensors that sites read or write in integers.
        limit_db: Below this the median sample is bad.
        pattern: How the error is spread.
        bad: The bad samples, where single ones are.
        probe: The samples on which what-ifs are tried.
        repairs: What-ifs on these, by reference numerics.
        kernels: Its kernels against their references.
        audits: Of its tensors.
    """

    pair: Pair
    plan: Plan
    cases: BadCases
    marked: SiteNodes
    ranges: TensorRanges
    grids: Mapping[str, Grid]
    limit_db: float
    pattern: Pattern
    bad: tuple[int, ...]
    probe: ProbeSet
    repairs: Repairs
    kernels: KernelAudit
    audits: tuple[RangeAudit, ...]


def observe(pair: Pair, batches: Sequence[Batch], progress: Progress) -> Symptoms:
    """Run the data through both models, check kernels, and audit ranges."""
    samples = sum(sizes_of(batches))
    prepared = pair.prepared
    build = prepared.settings.build
    marked = mark_sites(prepared.captured)
    ranges = TensorRanges(prepared.captured, prepared.statistics, build)
    plan = pair.executable.runs(pair.plan)
    writers = load_target(build.backend).integer_writers(build)
    rounding = SchemeRounding(ranges, writers)
    grids = planned_grids(marked, plan, rounding)
    limit = typical_limit_db(grids.values())
    with progress.stage("comparing outputs", samples) as advance:
        below = min(limit, BAD_DB)
        cases = find_bad_cases(*runs_of(pair), batches, BAD_CASES, advance, below_db=below)
    bad = bad_samples(cases)
    pattern = pattern_of(cases, limit, bad)
    bad = bad if pattern is Pattern.SENSITIVE else ()
    probe = build_probe(batches, PROBE_SAMPLES, bad, pattern)
    repairs = Repairs(marked, ranges, writers, plan, probe.batch)
    with progress.stage("checking kernels", None):
        kernels = audit_kernels(pair, marked, rounding, probe, repairs)
    with progress.stage("auditing ranges", samples) as advance:
        audits = audit_ranges(marked, prepared.statistics, grids, batches, advance)
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
        repairs=repairs,
        kernels=kernels,
        audits=audits,
    )


def dynamic_sites(pair: Pair) -> frozenset[str]:
    """Sites that the pair's target runs in int8_dynamic, by name."""
    return frozenset(
        site.name
        for site in pair.prepared.captured.sites
        if pair.backend.support(site, Scheme.INT8_DYNAMIC) is Support.NATIVE
    )
