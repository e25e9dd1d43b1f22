"""`autoquant tune`: the staged method for int8, int16 and fp16."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoquant import metrics
from autoquant.core.calls import Count, checked
from autoquant.core.findings.tuning import Attempt, TuneReport
from autoquant.core.objectives import Objective
from autoquant.core.os_errors import storage_errors
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.errors import JobError, PlanError
from autoquant.job import Job, SearchSettings
from autoquant.job.document import settings_from
from autoquant.model.building import build_subject
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.model.data.scoring import Metric, metric_title
from autoquant.model.recipes import HeldRecipe, SubjectRecipe, load_subject
from autoquant.model.subject import Subject
from autoquant.results import files
from autoquant.results.lock import FolderLock
from autoquant.results.measured_plans import EvaluatedPlans
from autoquant.results.terminal import shown
from autoquant.results.tune_report import write_tuning
from autoquant.results.wording import counts_text
from autoquant.searching.pair import prepare_untimed
from autoquant.searching.preparing.faithful_target import refuse_unfaithful
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.ranking.ranked import rank_by_sensitivity
from autoquant.tuning.measured import PlanMeasurer, fingerprint
from autoquant.tuning.shortened import FewerInt16
from autoquant.tuning.walk import Walk


def run_tune(job: SearchSettings, recipe: SubjectRecipe, progress: Progress) -> TuneReport:
    """Walk the stages of a job, and write what was tried into its output folder.

    Plans that an earlier run measured, on the same model, data and engine, are not measured again.
    The job's objectives are not looked at: what costs is the share of ops in int16.

    Raises:
        AutoquantError: A mistake that can be mended; what was measured is kept.
    """
    goal = check_goal(job)
    job = in_bits(job)
    folder = job.output / files.TUNING
    with storage_errors(folder, "write to"):
        folder.mkdir(parents=True, exist_ok=True)
    with closing(FolderLock(folder / files.LOCK)):
        subject = load_subject(recipe, progress)
        prepared = prepare_tuning(job, subject, progress)
        data = job.data if isinstance(job, Job) else None
        with closing(EvaluatedPlans(folder, fingerprint(prepared, data))) as kept:
            if len(kept):
                progress.note(f"{len(kept)} plans were measured before and are not measured again")
            measurer = PlanMeasurer(prepared, kept)
            report = _walk(job, goal, prepared, measurer, progress, folder)
            report = _score_heldout(report, measurer, progress)
        write_tuning(job.output, report, job.name)
    return report


def prepare_tuning(job: SearchSettings, subject: Subject, progress: Progress) -> Preparation:
    """Capture, calibrate, and compare the float plan with the model; the job is `in_bits`."""
    return refuse_unfaithful(prepare_untimed(job, subject, progress), progress)


def in_bits(job: SearchSettings) -> SearchSettings:
    """The same with the objectives that tuning has: what only emulates counts too."""
    return job.model_copy(update={"objectives": (Objective.OUTPUT_ERROR, Objective.INT16_SHARE)})


def check_goal(job: SearchSettings) -> float:
    """Refuse what tuning cannot work on, before anything is loaded; gives the goal."""
    goal = job.constraints.accuracy_drop
    if goal is None:
        raise JobError(
            "constraints.accuracy_drop: null is no goal to tune for",
            hint="give the largest accuracy drop that you accept, for instance 0.01",
        )
    missing = [s.value for s in (Scheme.INT8, Scheme.INT16) if s not in job.space.schemes]
    if missing:
        raise PlanError(
            f"space: tuning goes from int8 to int16 and fp16, and {job.space.name!r} has no "
            f"{' and no '.join(missing)}",
            hint="--set space=npu has int8, int16 and fp16",
        )
    return goal


def _walk(
    job: SearchSettings,
    goal: float,
    prepared: Preparation,
    measurer: PlanMeasurer,
    progress: Progress,
    folder: Path,
) -> TuneReport:
    table = rank_by_sensitivity(job.sensitivity, prepared, progress, folder)
    refine = FewerInt16(job, prepared, table, measurer, goal, progress)

    def show(attempt: Attempt) -> None:
        found = attempt.candidate.measurements.get("accuracy_drop")
        drop = "" if found is None else f", drop {found.value:.4g}"
        progress.note(
            f"{attempt.stage.value}, {attempt.why} ({counts_text(attempt.plan)}){drop}: "
            f"{attempt.verdict.value}"
        )

    walk = Walk(prepared.space, table, measurer.measure, goal=goal, refine=refine, show=show)
    return replace(walk.run(), metric=metric_title(prepared.subject.metric))


def _score_heldout(report: TuneReport, measurer: PlanMeasurer, progress: Progress) -> TuneReport:
    """Score the chosen plan, and no other, on data that no stage looked at."""
    chosen = report.chosen
    if chosen is None:
        return report
    with progress.stage("scoring held-out data", None):
        scored = replace(chosen, candidate=measurer.score_heldout(chosen.candidate))
    attempts, results = (
        tuple(scored if item is chosen else item for item in items)
        for items in (report.attempts, report.results)
    )
    return replace(report, attempts=attempts, results=results, chosen=scored)


@checked
def tune(
    model: nn.Module,
    *,
    calibration: object,
    evaluation: object,
    metric: Metric | str = metrics.accuracy,
    loss: Metric | str | None = None,
    heldout: object | None = None,
    max_drop: float = 0.01,
    trials: int = 24,
    space: str | Mapping[str, Any] = "npu",
    backend: str | Mapping[str, Any] = "auto",
    seed: int = 0,
    output: str | Path | None = None,
    name: str = "tune",
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
) -> TuneReport:
    """Find the plan with the fewest int16 ops (and fp16 ops) that keeps the accuracy.

    Args:
        model: The trained float model; it is never changed.
        calibration: Inputs to calibrate on, as `aq.search` takes them.
        evaluation: Inputs and targets to compare plans on.
        metric: `metric(outputs, targets)`, higher is better.
        loss: As `metric`, but lower is better; measured beside it.
        heldout: Data that the chosen plan alone is scored on.
        max_drop: The goal: the largest accuracy drop, in the metric's unit.
        trials: How many plans the search may measure after the bisection; 0: no search.
        space: A search space with int8 and int16, and fp16 where the target has it.
        backend: As `autoquant.search` takes it; of `auto` the first engine that runs here.
        seed: Decides everything that is drawn.
        output: Where the report and all measured plans are kept; None: a new temporary folder.
        name: For the report.
        capture: As `autoquant.search` takes it; so are all arguments down to `cache_mb`.
        leaf_modules: Paths that capture must not look into.
        equalise: `always` rescales channels first; `auto` and `never` do not.
        ranges: The section `calibration` of a job file.
        target: The key of the targets, where batches are mappings.
        prepare: Makes batches of the items of the data.
        dynamic: By input, the axes whose size may change.
        cache_mb: A larger data set is read again for each use.
        progress: Shown the progress; None: standard error is, False: nothing is.
        settings: Any other section of a job file, as a mapping.

    Returns:
        What was tried and why; `.plan` is the plan, None where the goal is out of reach.

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    document = {
        "name": name,
        "space": space,
        "objectives": ["output_error", "int16_share"],
        "seed": seed,
        "output": str(output or tempfile.mkdtemp(prefix="autoquant-")),
        "backend": backend,
        "constraints": {"accuracy_drop": max_drop},
        "budget": {"trials": trials},
    }
    job = settings_from(
        SearchSettings, "autoquant.tune", document, ranges=ranges, sections=settings
    )
    check_goal(job)
    subject = build_subject(
        model,
        calibration=calibration,
        evaluation=evaluation,
        heldout=heldout,
        metric=metric,
        loss=loss,
        leaf_modules=leaf_modules,
        equalise=equalise,
        capture=capture,
        calibration_samples=job.calibration.samples,
        form=DataForm.of_call(target, prepare, dynamic, cache_mb),
        outputs=job.outputs,
    )
    return run_tune(job, HeldRecipe(subject), shown(progress))
