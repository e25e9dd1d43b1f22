"""What mending a fixed range that does not fit is worth at the outputs, tried on the samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from autoquant.backends.targets import reference_rounding
from autoquant.core.findings.concerns import Concern, Severity
from autoquant.core.plan import Plan
from autoquant.core.ranges import FixedRange
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.output_error import output_noises
from autoquant.model.numerics.rounded_graph import RoundedGraph, choices_of
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.raised_plan import raise_ops


def try_mends(
    prepared: Preparation, plan: Plan, judged: Sequence[tuple[FixedRange, Concern]]
) -> Iterator[Concern]:
    """Say of each range that needs attention what its mend brings, alone and with the others.

    A range of the job is left out, the op of a range of the target's is raised. SQNR of the
    outputs by reference numerics, on the samples of `prepared.subject.calibration`.
    """
    misfits = [item for item, concern in judged if concern.severity is Severity.ATTENTION]
    with_graph = prepared.captured.how != "modules"
    before = _output_db(prepared, plan, ()) if misfits and with_graph else None
    together = None
    if len(misfits) > 1 and with_graph:
        together = _output_db(prepared, _raised(prepared, plan, misfits), misfits)
    for item, concern in judged:
        if before is None or item not in misfits:
            yield concern
            continue
        raised = _raised(prepared, plan, (item,))
        after = _output_db(prepared, raised, (item,))
        how = "left out" if item.is_job else f"in {raised[item.name].value}"
        step = f"{how}: outputs {before:.1f} -> {after:.1f} dB"
        others = f", {together:.1f} dB with all {len(misfits)} mended" if together else ""
        samples = prepared.statistics.samples
        tried = f"tried on {samples} samples (emulated), {step}{others}"
        yield replace(concern, mend=f"{concern.mend}; {tried}")


def _raised(prepared: Preparation, plan: Plan, mended: Collection[FixedRange]) -> Plan:
    """The plan with the ops whose range the target fixes in a float scheme: int16 keeps it."""
    sites = [item.name for item in mended if not item.is_job]
    return raise_ops(prepared, plan, sites, wide_weights=True)


def _output_db(prepared: Preparation, plan: Plan, mended: Collection[FixedRange]) -> float:
    """SQNR of the outputs of a plan with some of the job's fixed ranges left out."""
    captured, build = prepared.captured, prepared.settings.build
    kept = tuple(item for item in build.ranges.fixed if not (item.is_job and item in mended))
    build = replace(build, ranges=replace(build.ranges, fixed=kept))
    rounding = reference_rounding(captured, prepared.statistics, build)
    rounded = RoundedGraph(mark_sites(captured), rounding, choices_of(plan))
    noises = output_noises(captured, rounded, prepared.subject.calibration)
    return noises.decibels(prepared.subject.outputs)["sqnr_db"][0]
