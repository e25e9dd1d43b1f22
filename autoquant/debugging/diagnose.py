"""Diagnosis of a pair, and `autoquant.diagnose` for a model in this process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoquant.core.calls import Count, checked
from autoquant.core.findings.diagnosis import Cause, Diagnosis, Finding, Pattern, Variation
from autoquant.core.findings.range_audit import RangeAudit
from autoquant.core.plan import Plan
from autoquant.core.progress import Progress
from autoquant.debugging.badcases import data_set
from autoquant.debugging.diagnosis.causes import find_causes
from autoquant.debugging.diagnosis.probe_set import noise_of
from autoquant.debugging.diagnosis.suspects import own_ratio
from autoquant.debugging.diagnosis.symptoms import Symptoms, dynamic_sites, observe
from autoquant.debugging.diagnosis.wording import go_wider
from autoquant.errors import BackendError
from autoquant.job import Setup
from autoquant.job.document import settings_from
from autoquant.model.building import build_subject
from autoquant.model.data.batches import Batch
from autoquant.model.data.output_noise import to_decibels
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.results.terminal import shown
from autoquant.searching.pair import Pair, build_pair, needs_graph, prepare_untimed
from autoquant.searching.raised_plan import raise_ops, rules_text

_RAISED = frozenset(
    {
        Cause.OUTLIER_CHANNELS,
        Cause.PER_TENSOR_WEIGHT,
        Cause.RESOLUTION,
        Cause.VARYING_RANGE,
        Cause.KERNEL,
    }
)
"""Causes that a plan with raised ops mends."""

VARIATIONS = 5
"""Inputs that are listed by how their range varies."""


@checked
def diagnose(
    model: nn.Module,
    plan: Plan | str = "int8",
    *,
    calibration: object,
    evaluation: object,
    backend: str | Mapping[str, Any] = "auto",
    capture: str = "auto",
    leaf_modules: Sequence[str] = (),
    equalise: str = "auto",
    ranges: Mapping[str, Any] | None = None,
    target: str | None = None,
    prepare: Prepare | None = None,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    cache_mb: Count = 256,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Diagnosis:
    """Tell why a plan of a model is wrong, and what to do.

    Args:
        model: The trained float model; it is never changed.
        plan: A plan, a scheme for all ops, a plan file, or a result folder.
        calibration: Inputs to calibrate on: tensors, a list of batches, or a DataLoader.
        evaluation: Inputs to compare on, in the same forms; targets are not needed.
        backend: As `autoquant.search` takes it; of `auto` the first engine that runs here.
        capture: As `autoquant.search` takes it; so are all arguments down to `cache_mb`.
        leaf_modules: Paths that are not looked into: they stay in fp32 as a whole.
        equalise: `always` rescales channels first; `auto` and `never` do not.
        ranges: The section `calibration` of a job file.
        target: The key of the targets, where batches are mappings.
        prepare: Makes batches of the items of the data.
        dynamic: By input, the axes whose size may change.
        cache_mb: A larger data set is read again for each use.
        progress: Shown the progress; None: standard error is, False: nothing is.
        settings: Other sections of a job file, as mappings (`space`, `objectives`...).

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    document = {"space": {"schemes": ["int8", "bf16", "fp32"]}, "backend": backend}
    setup = settings_from(Setup, "autoquant.diagnose", document, ranges=ranges, sections=settings)
    subject = build_subject(
        model,
        calibration=calibration,
        evaluation=evaluation,
        leaf_modules=leaf_modules,
        equalise=equalise,
        capture=capture,
        calibration_samples=setup.calibration.samples,
        form=DataForm.of_call(target, prepare, dynamic, cache_mb),
    )
    progress = shown(progress)
    prepared = prepare_untimed(setup, subject, progress, plan)
    pair = build_pair(prepared, plan, progress)
    return diagnose_pair(pair, "evaluation", progress)


def diagnose_pair(pair: Pair, data: str, progress: Progress) -> Diagnosis:
    """Tell why a pair's plan is wrong, and what to do.

    Raises:
        ModelError: The model was captured module by module: there is no graph to look into.
    """
    needs_graph(pair.prepared.captured, "diagnose")
    seen = observe(pair, data_set(pair.prepared.subject, data), progress)
    pattern, findings, notes = _explain(seen, progress)
    diagnosis = Diagnosis(
        pattern=pattern,
        samples=seen.cases.samples,
        bad=seen.bad,
        sqnr_db=seen.cases.sqnr_db,
        median_sqnr_db=seen.cases.sqnr.quantile(0.5),
        limit_db=seen.limit_db,
        findings=findings,
        notes=notes,
        variations=_variations(seen.audits),
    )
    return _with_plan(diagnosis, seen, progress)


def _variations(audits: Sequence[RangeAudit]) -> tuple[Variation, ...]:
    """The inputs of ops whose range varies most from sample to sample, widest first."""
    found = [
        Variation(site, item.tensor, ratio, math.log2(max(ratio, 1.0)))
        for item in audits
        for ratio in [own_ratio(item, item.over_samples)]
        for site in item.readers[:1]
    ]
    return tuple(sorted(found, key=lambda item: -item.ratio)[:VARIATIONS])


def _explain(
    seen: Symptoms, progress: Progress
) -> tuple[Pattern, tuple[Finding, ...], tuple[str, ...]]:
    """The pattern, the causes, and what does no harm."""
    fault = seen.kernels.fault
    if fault is not None and fault.explains and seen.pattern is not Pattern.HEALTHY:
        return Pattern.IMPLEMENTATION, (fault.finding,), ()
    harmless = () if fault is None else (_harmless(fault.finding),)
    notes = (*harmless, *seen.kernels.notes)
    findings = () if seen.pattern is Pattern.HEALTHY else find_causes(seen, progress)
    return seen.pattern, findings, notes


def _with_plan(diagnosis: Diagnosis, seen: Symptoms, progress: Progress) -> Diagnosis:
    """Add the plan that raises the ops of the first finding, built and measured.

    Of a varying range int8_dynamic is tried first. Its scale is that of a batch: where samples of
    one batch differ too much for it, more bits are taken, and the step says so.
    """
    if not diagnosis.findings or diagnosis.findings[0].cause not in _RAISED:
        return diagnosis
    finding = diagnosis.findings[0]
    able = dynamic_sites(seen.pair) if finding.cause is Cause.VARYING_RANGE else frozenset()
    try:
        mend = _raised(seen, finding, able, progress)
        if able & set(finding.touching) and mend.plan_db < seen.limit_db:
            wider = _raised(seen, finding, frozenset(), progress)
            if wider.plan_db > mend.plan_db:
                step = go_wider(finding.touching, able, mend.plan_db, mend.single_db(seen))
                finding, mend = replace(finding, step=step), wider
    except BackendError as error:
        note = f"the plan that raises these ops cannot be built: {error.message}"
        return replace(diagnosis, notes=(*diagnosis.notes, note))
    return replace(
        diagnosis,
        findings=(finding, *diagnosis.findings[1:]),
        plan=mend.pair.plan,
        plan_db=mend.plan_db,
        rules=rules_text(seen.pair.prepared, seen.pair.plan, mend.pair.plan),
    )


@dataclass(frozen=True, slots=True)
class _Mend:
    """A plan with raised ops, and its SQNR on the probe, measured in one batch."""

    pair: Pair
    plan_db: float

    def single_db(self, seen: Symptoms) -> float:
        """The same where each sample is a batch of its own."""
        return _measured(self.pair, seen, seen.probe.batch.parts(1))


def _raised(seen: Symptoms, finding: Finding, dynamic: frozenset[str], progress: Progress) -> _Mend:
    prepared = seen.pair.prepared
    plan = raise_ops(prepared, seen.pair.plan, finding.touching, dynamic=dynamic)
    pair = build_pair(prepared, plan, progress)
    return _Mend(pair, _measured(pair, seen, [seen.probe.batch]))


def _measured(pair: Pair, seen: Symptoms, batches: Iterable[Batch]) -> float:
    return to_decibels(seen.probe.loss(torch.cat([noise_of(pair, it) for it in batches])))


def _harmless(finding: Finding) -> str:
    return (
        f"{finding.evidence}; with right kernels the outputs would have {finding.after_db:.1f} dB "
        f"instead of {finding.before_db:.1f}"
    )
