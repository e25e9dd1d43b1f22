"""A search, from its job to its frontier: read `run_search` first."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autoquant.api.confirm import noise_notice, score_heldout, time_again
from autoquant.api.faithful import refuse_unfaithful
from autoquant.api.guidance import find_costs, guide
from autoquant.api.load import load_result
from autoquant.api.narrowing import narrow_space
from autoquant.api.preparation import Preparation, measurement_settings, prepare
from autoquant.api.result import BuildContext, SearchResult, example_arrays, keep_example
from autoquant.api.sensitivity import rank_by_sensitivity
from autoquant.api.settings import check_resumable, settings_after, settings_of
from autoquant.api.templates import Template, load_templates
from autoquant.api.watch import Watch
from autoquant.backends.targets import ESTIMATED, check_target
from autoquant.core.evaluation import Evaluator, EvaluatorFactory, Executor, Phase
from autoquant.core.frontier import Frontier, find_frontier
from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.objectives import Objective
from autoquant.errors import AutoquantError, BackendError, StorageError
from autoquant.evaluate.evaluator import EvaluatorRecipe
from autoquant.execute.start import check_executor, start_executor
from autoquant.job import SearchSettings, dump_job
from autoquant.model.scoring import metric_name
from autoquant.model.subject import SubjectRecipe
from autoquant.model.weights_digest import weights_digest
from autoquant.record import files
from autoquant.record.background import BackgroundTracker
from autoquant.record.environment import describe_environment
from autoquant.record.example_file import write_example
from autoquant.record.findings import WEIGHTS, Findings, SearchFacts
from autoquant.record.folder import ResultFolder
from autoquant.record.mlflow_store import TrackingSettings, open_recorder
from autoquant.record.recorders import JointRecorder, NullRecorder, Tracker
from autoquant.record.report import render_report
from autoquant.record.results import load_baseline, load_facts
from autoquant.searching.constraints import Limits
from autoquant.searching.gate import Gate
from autoquant.searching.rounds import History, Rounds, StopReason
from autoquant.searching.strategy import Strategy

_ARTIFACTS = (files.FRONTIER, files.SENSITIVITY, files.REPORT)


def run_search(
    job: SearchSettings,
    recipe: SubjectRecipe,
    watch: Watch,
    *,
    resume: bool,
    templates: Sequence[Template] = (),
) -> SearchResult:
    """Run a job.

    Args:
        job: What to search, and how.
        recipe: Loads model, data and metric; workers call it too.
        watch: Shown the progress.
        resume: Continue the search that `job.output` holds.
        templates: Plans to try among the seeds, after those of `job.seeds`.

    Returns:
        What was found, also when the search was interrupted.

    Raises:
        AutoquantError: A mistake that the user can mend; what was finished is kept.
    """
    check_target(measurement_settings(job).build)
    templates = (*load_templates(job.seeds), *templates)
    with _open_folder(job, resume) as folder:
        facts = _facts_of(job, folder.path, resume)
        environment = describe_environment()
        folder.write_facts(facts, dump_job(job))
        folder.write_environment(environment)
        check_executor(job.execution)
        tracker = _open_tracker(job, facts, environment)
        try:
            return _search(job, recipe, watch, folder, tracker, facts, environment, templates)
        except (AutoquantError, KeyboardInterrupt) as error:
            tracker.stop(str(error) or "interrupted")
            raise


def _search(
    job: SearchSettings,
    recipe: SubjectRecipe,
    watch: Watch,
    folder: ResultFolder,
    tracker: Tracker,
    facts: SearchFacts,
    environment: Mapping[str, Any],
    templates: Sequence[Template],
) -> SearchResult:
    """The order of the work; each line consumes the values above it."""
    with watch.stage("loading model and data", None):
        subject = recipe()
    prepared = prepare(job, subject, watch, folder.path, templates=templates)
    prepared = narrow_space(refuse_unfaithful(prepared, watch), watch)
    facts = _settle(job, facts, prepared)
    _keep_preparation(folder, prepared, facts, dump_job(job))
    baseline = _measure_baseline(prepared, folder, watch)
    table = rank_by_sensitivity(job.sensitivity, prepared, watch, folder.path)
    costs = find_costs(job.objectives, prepared, watch, folder.path)
    if Objective.LATENCY in costs:
        folder.write_costs(costs[Objective.LATENCY])
    limits = Limits(job.constraints, baseline)
    plans = [template.plan for template in templates]
    guidance = guide(job, prepared, table, costs, baseline, limits, plans)
    strategy = Strategy(
        prepared.space,
        guidance.seeds,
        objectives=job.objectives,
        limits=limits,
        sampler=job.sampler,
        seed=job.seed,
        journal=folder.path / files.JOURNAL,
        proposer=guidance.proposer,
    )
    is_estimate = prepared.settings.build.backend in ESTIMATED
    with _executor(job, recipe, prepared, watch) as executor:
        history = _run_rounds(
            job, strategy, guidance.gate, executor, prepared, folder, tracker, watch
        )
        candidates = history.candidates
        find = partial(_frontier, job, limits, baseline)
        if history.reason is not StopReason.INTERRUPTED:
            if Phase.LATENCY in prepared.phases and not is_estimate:
                candidates = time_again(candidates, find, executor, folder, watch)
            if subject.heldout is not None:
                candidates = score_heldout(candidates, find, executor, folder, watch)
    frontier = find(candidates)
    noise = noise_notice(frontier)
    if noise is not None:
        facts = replace(facts, notices=(*facts.notices, noise))
        folder.write_facts(facts, dump_job(job))
    if history.reason is StopReason.INTERRUPTED:
        resume = f"interrupted; continue with --resume (kept in {folder.path})"
        facts = replace(facts, notices=(*facts.notices, resume))
        folder.write_facts(facts, dump_job(job))
    findings = Findings(
        facts=facts,
        job_text=dump_job(job),
        environment=environment,
        sites=prepared.captured.sites,
        candidates=candidates,
        frontier=frontier,
        sensitivity=table,
    )
    return _finish(findings, prepared, folder, tracker, watch, history.reason)


def _open_folder(job: SearchSettings, resume: bool) -> ResultFolder:
    """Open the result folder; a resumed job must be the one that it holds."""
    if not resume:
        return ResultFolder.create(job.output)
    folder = ResultFolder.resume(job.output)
    try:
        check_resumable(job, folder.path)
    except BaseException:
        folder.close()
        raise
    return folder


def _facts_of(job: SearchSettings, folder: Path, resume: bool) -> SearchFacts:
    """What the search is; a resumed one keeps its id and what its preparation settled."""
    if resume:
        try:
            known = load_facts(folder)
        except StorageError:
            pass
        else:
            settings = settings_after(job, known.settings, folder)
            return replace(known, name=job.name, settings=settings)
    return SearchFacts(
        search_id=uuid.uuid4().hex,
        name=job.name,
        metric="metric",
        target=job.backend.name,
        max_drop=job.constraints.accuracy_drop,
        settings=settings_of(job),
    )


def _settle(job: SearchSettings, facts: SearchFacts, prepared: Preparation) -> SearchFacts:
    """Add to the facts what preparation found out."""
    batch = job.backend.batch_size or len(prepared.subject.evaluation[0])
    threads = job.backend.threads
    build = prepared.settings.build
    parts = (build.backend, "+".join(build.kernels.counts()) or build.engine, build.accelerator)
    target = (
        f"{' '.join(filter(None, parts))}, {threads} thread{'s' if threads > 1 else ''}, "
        f"batch {batch}"
    )
    settings = {
        **facts.settings,
        "engine": build.engine,
        "reduce_range": build.reduce_range,
        "latency_batch": batch,
        "sites": len(prepared.captured.sites),
        "knobs": len(prepared.space.free),
        "leaf_modules": ",".join(prepared.captured.leaf_modules),
        WEIGHTS: weights_digest(prepared.subject.model),
    }
    rival = prepared.backend.rival if build.backend in ESTIMATED else facts.rival
    return replace(
        facts,
        metric=metric_name(prepared.subject.metric),
        target=target,
        rival=rival,
        settings=settings,
        notices=prepared.notices,
    )


def _open_tracker(
    job: SearchSettings, facts: SearchFacts, environment: Mapping[str, Any]
) -> Tracker:
    if not job.tracking.enabled:
        return NullRecorder()
    settings = TrackingSettings(
        uri=job.tracking_uri,
        experiment=job.tracking.experiment or job.name,
        tags=job.tracking.tags,
    )
    return BackgroundTracker(open_recorder(settings, facts, dump_job(job), environment))


def _keep_preparation(
    folder: ResultFolder, prepared: Preparation, facts: SearchFacts, job_text: str
) -> None:
    """Write what resuming, loading and exporting need."""
    folder.write_facts(facts, job_text)
    folder.write_sites(prepared.captured.sites)
    folder.write_space(prepared.space)
    folder.write_statistics(prepared.statistics)
    folder.write_build(prepared.settings.build)
    example = keep_example(prepared.captured, prepared.subject.calibration[0])
    write_example(folder.path, example_arrays(example))
    dynamic = [list(axes) for axes in prepared.subject.dynamic]
    folder.write_calling({**prepared.subject.calling.to_json(), "dynamic": dynamic})


def _measure_baseline(prepared: Preparation, folder: ResultFolder, watch: Watch) -> Measurements:
    """Measure the float model, or take over what an earlier process measured."""
    if (folder.path / files.BASELINE).exists():
        return load_baseline(folder.path)
    with watch.stage("measuring the float model", None):
        baseline = prepared.evaluator.baseline()
    folder.write_baseline(baseline)
    return baseline


@contextmanager
def _executor(
    job: SearchSettings, recipe: SubjectRecipe, prepared: Preparation, watch: Watch
) -> Iterator[Executor]:
    """Start the workers, and stop them at the end whatever happens."""
    threads = torch.get_num_threads()
    factory: EvaluatorFactory = EvaluatorRecipe(recipe, prepared.statistics, prepared.settings)
    if job.execution.kind == "local":  # this process has the model and an open backend already
        torch.set_num_threads(prepared.settings.quality_threads)
        factory = partial(_own_evaluator, prepared)
    with watch.stage(f"starting workers ({job.execution.kind})", None):
        executor = start_executor(job.execution, factory)
    try:
        yield executor
    finally:
        executor.close()
        torch.set_num_threads(threads)


def _own_evaluator(prepared: Preparation) -> Evaluator:
    return prepared.evaluator


def _run_rounds(
    job: SearchSettings,
    strategy: Strategy,
    gate: Gate,
    executor: Executor,
    prepared: Preparation,
    folder: ResultFolder,
    tracker: Tracker,
    watch: Watch,
) -> History:
    known = folder.candidates()
    _check_history(strategy.told, known, folder.path)
    for candidate in known:
        tracker.candidate(candidate)
    total = max(job.budget.trials, strategy.seed_count)
    with watch.stage("searching", total) as advance:
        counter = _Counter(advance, len(prepared.phases))
        rounds = Rounds(
            strategy,
            executor,
            phases=prepared.phases,
            budget=job.budget,
            known=known,
            gate=gate,
            recorder=JointRecorder((folder, tracker, watch, counter)),
            clock=time.monotonic,
        )
        advance(len(known))
        return rounds.run()


def _check_history(told: Collection[int], known: Sequence[Candidate], folder: Path) -> None:
    """Refuse a history that lost lines: a candidate is written before its study is told of it."""
    lost = sorted(set(told) - {candidate.number for candidate in known})
    if lost:
        raise StorageError(
            f"{folder / files.HISTORY} lacks {len(lost)} candidates that {files.JOURNAL} counts "
            f"as finished; the first is {lost[0]}",
            hint="restore it from a copy, or search again with another output",
        )


@dataclass
class _Counter:
    """Advances the progress bar when the last phase of a candidate is done."""

    advance: Any
    phase_count: int

    def candidate(self, candidate: Candidate) -> None:
        """Count a finished candidate."""
        timed = self.phase_count == 1 or "speedup" in candidate.measurements
        if timed or candidate.failure is not None:
            self.advance(1)


def _frontier(
    job: SearchSettings, limits: Limits, baseline: Measurements, candidates: Sequence[Candidate]
) -> Frontier:
    """The frontier of what keeps the constraints."""
    kept = [candidate for candidate in candidates if limits.kept_by(candidate)]
    return find_frontier(kept, baseline, job.objectives)


def _finish(
    findings: Findings,
    prepared: Preparation,
    folder: ResultFolder,
    tracker: Tracker,
    watch: Watch,
    reason: StopReason,
) -> SearchResult:
    """Write and record what was found."""
    folder.write_frontier(findings.frontier)
    result = SearchResult(findings, context_of(prepared), folder.path)
    with watch.stage("writing the report", None):
        folder.write_report(render_report(findings))
        models = {} if reason is StopReason.INTERRUPTED else _write_models(result, prepared, watch)
        for gap in tracker.finish(
            findings,
            artifacts=[folder.path / name for name in _ARTIFACTS],
            models=models,
        ):
            watch.note(gap)
    if reason is StopReason.INTERRUPTED:
        tracker.stop("interrupted")
    watch.note(f"stopped: {reason.value}")
    found = load_result(folder.path)
    return replace(found, context=replace(found.context, load=lambda: prepared.subject.model))


def _write_models(
    result: SearchResult, prepared: Preparation, watch: Watch
) -> dict[int, tuple[Path, ...]]:
    """Write the quantized model of every frontier member as the engine's file.

    A backend that builds nothing deployable has its plans alone.
    """
    backend, written = prepared.backend, {}
    for member in result.frontier:
        plan = files.plan_path(result.folder, member.number)
        if backend.suffix != plan.suffix:
            try:
                path = plan.with_suffix(backend.suffix)
                backend.export(member.plan, path, member.candidate.to_json())
            except BackendError as error:
                watch.note(f"candidate {member.number} has no file: {error.message}")
        found = sorted(plan.parent.glob(f"{member.number}.*"))
        written[member.number] = tuple(path for path in found if path != plan)
    return written


def context_of(prepared: Preparation) -> BuildContext:
    """What it takes to build a plan of this search again."""
    return BuildContext(
        sites=prepared.captured.sites,
        leaf_modules=prepared.captured.leaf_modules,
        statistics=prepared.statistics,
        build=prepared.settings.build,
        example=keep_example(prepared.captured, prepared.subject.calibration[0]),
        calling=prepared.subject.calling,
        dynamic=prepared.subject.dynamic,
        latency_batch=prepared.settings.latency_batch or len(prepared.subject.evaluation[0]),
        weights=weights_digest(prepared.subject.model),
    )
