"""What a pair shows: how its error is spread, its kernels, its ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from autoquant.analysis.badcases.find import find_bad_cases
from autoquant.analysis.badcases.sample_error import energies
from autoquant.analysis.diagnosis.grids import read_grids
from autoquant.analysis.diagnosis.kernel_faults import KernelFault, weigh_kernels
from autoquant.analysis.diagnosis.kernels import BuiltPlan, check_kernels
from autoquant.analysis.diagnosis.pattern import (
    bad_candidates,
    loud_samples,
    pattern_of,
    typical_limit_db,
)
from autoquant.analysis.diagnosis.probe_set import ProbeSet, build_probe
from autoquant.analysis.diagnosis.range_audit import audit_ranges
from autoquant.api.badcases import runs_of
from autoquant.api.pair import Pair
from autoquant.api.watch import Watch
from autoquant.backends.torch_cpu.engines import engines_here, using_engine
from autoquant.core.badcases import BadCases
from autoquant.core.diagnosis import Pattern
from autoquant.core.range_audit import RangeAudit
from autoquant.core.sites import Site
from autoquant.model.batches import Batch
from autoquant.model.data_set import sizes_of
from autoquant.model.outputs import output_rows
from autoquant.model.picked import pick_samples
from autoquant.model.ranges.grid import Grid
from autoquant.model.torch_ao.conversion import quiet_torch
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.rounding import SchemeRounding

PROBE_SAMPLES = 64
"""Samples on which what-ifs are tried: the first of the data."""
BAD_CASES = 16
"""And this many of the worst, where single ones are bad."""


@dataclass(frozen=True, slots=True, eq=False)
class Symptoms:
    """What was seen of a pair.

    Attributes:
        pair: Float model and plan.
        cases: Its bad cases.
        grids: Of its tensors, as they run.
        limit_db: Below this the median sample is bad.
        pattern: How the error is spread.
        bad: The bad samples, where single ones are.
        probe: The samples on which what-ifs are tried.
        fault: Its wrong kernels; None: there are none.
        audits: Of its tensors.
    """

    pair: Pair
    cases: BadCases
    grids: Mapping[str, Grid]
    limit_db: float
    pattern: Pattern
    bad: tuple[int, ...]
    probe: ProbeSet
    fault: KernelFault | None
    audits: tuple[RangeAudit, ...]


def observe(pair: Pair, batches: Sequence[Batch], watch: Watch) -> Symptoms:
    """Run the data through both models, check kernels, and audit ranges."""
    samples = sum(sizes_of(batches))
    captured, statistics = pair.prepared.captured, pair.prepared.statistics
    with watch.stage("comparing outputs", samples) as advance:
        cases = find_bad_cases(*runs_of(pair), batches, BAD_CASES, advance)
    built = built_plan(pair)
    grids = _grids(pair, built)
    limit = typical_limit_db(grids.values())
    bad = _bad_samples(pair, batches, cases, limit)
    pattern = pattern_of(cases, limit, bad)
    bad = bad if pattern is Pattern.SENSITIVE else ()
    probe = build_probe(batches, PROBE_SAMPLES, bad, pattern)
    with watch.stage("checking kernels", None):
        fault = _kernel_fault(pair, built, probe)
    with watch.stage("auditing ranges", samples) as advance:
        audits = audit_ranges(captured, statistics, grids, batches, advance)
    return Symptoms(pair, cases, grids, limit, pattern, bad, probe, fault, audits)


def energies_of(pair: Pair, batch: Batch) -> tuple[Tensor, Tensor]:
    """Energy of signal and noise of each sample, as the pair runs here."""
    expected, found = (output_rows(run(batch.inputs), batch) for run in runs_of(pair))
    return energies(expected, found)


def built_plan(pair: Pair) -> BuiltPlan:
    """The pair's plan beside what it was built from.

    Raises:
        ValueError: What runs is no graph.
    """
    module, prepared = pair.executable.module, pair.prepared
    if not isinstance(module, GraphModule):
        raise ValueError(f"a diagnosis needs a converted graph, not a {type(module).__name__}")
    rounding = SchemeRounding(sites_of(pair), prepared.quantization, scales_of(pair))
    return BuiltPlan(module, prepared.captured, pair.plan, rounding)


def scales_of(pair: Pair) -> ScaleCache:
    """Scales of the pair's tensors as its plan was built."""
    prepared = pair.prepared
    return ScaleCache(prepared.statistics, prepared.quantization.ranges.fixed_tensors)


def sites_of(pair: Pair) -> dict[str, Site]:
    """The pair's sites by name."""
    return {site.name: site for site in pair.prepared.captured.sites}


def _grids(pair: Pair, built: BuiltPlan) -> Mapping[str, Grid]:
    small = pair.prepared.subject.calibration[0].head(2).inputs
    with using_engine(pair.prepared.settings.build.engine), quiet_torch():
        return read_grids(built.module, built.captured, small)


def _kernel_fault(pair: Pair, built: BuiltPlan, probe: ProbeSet) -> KernelFault | None:
    engine = pair.prepared.settings.build.engine
    others = [name for name in engines_here() if name != engine]
    with using_engine(engine), quiet_torch():
        checks = check_kernels(built, [probe.batch.inputs])
        return weigh_kernels(checks, pair.prepared.subject.flat, built, probe, others)


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
