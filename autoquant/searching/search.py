"""A search, from its job to its frontier: read `run_search` first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from autoquant.backends.targets import check_target
from autoquant.core.backends import is_estimate
from autoquant.core.evaluation import EvaluatorFactory, Executor, Phase
from autoquant.core.frontier import Frontier, find_frontier
from autoquant.core.history import Past, StopReason
from autoquant.core.measurement import Candidate, Measurements, fastest_float
from autoquant.core.objectives import Objective
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.errors import ExecutionError
from autoquant.job import SearchSettings, dump_job
from autoquant.model.subject import SubjectRecipe
from autoquant.results import files
from autoquant.results.environment import describe_environment
from autoquant.results.findings import Findings, SearchFacts
from autoquant.results.folder import ResultFolder
from autoquant.results.mlflow.background import BackgroundTracker
from autoquant.results.mlflow.store import TrackingSettings, open_recorder
from autoquant.results.reading import load_baseline
from autoquant.results.recorders import JointRecorder, NullRecorder, Tracker
from autoquant.searching.facts import open_facts, settle_facts
from autoquant.searching.files import write_findings, write_preparation
from autoquant.searching.frontier_again import FindFrontier, score_heldout, time_again
from autoquant.searching.guidance import find_costs, guide
from autoquant.searching.interrupts import Interrupts, taken
from autoquant.searching.measuring.evaluator import EvaluatorRecipe, PlanEvaluator
from autoquant.searching.measuring.workers.start import check_executor, start_executor
from autoquant.searching.preparing.faithful_target import refuse_unfaithful
from autoquant.searching.preparing.narrowing import narrow_space
from autoquant.searching.preparing.preparation import Preparation, measurement_settings, prepare
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.pruner import Pruner
from autoquant.searching.proposing.rounds import Ended, Rounds
from autoquant.searching.proposing.strategy import Strategy
from autoquant.searching.proposing.study import write_study
from autoquant.searching.ranking.ranked import rank_by_sensitivity
from autoquant.searching.result import SearchResult
from autoquant.searching.settings import check_resumable
from autoquant.searching.templates import Template, load_templates


def run_search(
    job: SearchSettings,
    recipe: SubjectRecipe,
    progress: Progress,
    *,
    resume: bool,
    templates: Sequence[Template] = (),
) -> SearchResult:
    """Run a job.

    Args:
        job: What to search, and how.
        recipe: Loads model, data and metric; workers call it too.
        progress: Shown the progress.
        resume: Continue the search that `job.output` holds.
        templates: Plans to try among the seeds, after those of `job.seeds`.

    Returns:
        What was found, also when the search was interrupted.

    Raises:
        AutoquantError: A mistake that the user can mend; what was finished is kept.
    """
    check_target(measurement_settings(job).build)
    templates = (*load_templates(job.seeds), *templates)
    with _open_folder(job, resume) as folder, taken(progress.note) as interrupts:
        facts = open_facts(job, folder, resume)
        environment = describe_environment()
        folder.write_job(dump_job(job))
        folder.write_environment(environment)
        check_executor(job.execution)
        tracker = _open_tracker(job, facts, environment)
        try:
            return _search(
                job, recipe, progress, interrupts, folder, tracker, facts, environment, templates
            )
        except BaseException as error:
            tracker.stop(str(error) or "interrupted")
            raise


def _search(
    job: SearchSettings,
    recipe: SubjectRecipe,
    progress: Progress,
    interrupts: Interrupts,
    folder: ResultFolder,
    tracker: Tracker,
    facts: SearchFacts,
    environment: Mapping[str, Any],
    templates: Sequence[Template],
) -> SearchResult:
    """The order of the work; each line consumes the values above it."""
    with progress.stage("loading model and data", None):
        subject = recipe()
    prepared = prepare(job, subject, progress, folder.path, templates=templates)
    prepared = narrow_space(refuse_unfaithful(prepared, progress), progress)
    write_preparation(folder, prepared)
    evaluator = prepared.evaluator
    baseline = _measure_baseline(evaluator, folder, progress)
    factory = _factory(job, recipe, prepared, evaluator, fastest_float(baseline))
    del evaluator  # where workers measure, nobody needs the outputs that it keeps
    table = rank_by_sensitivity(job.sensitivity, prepared, progress, folder.path)
    costs = find_costs(job.goals, prepared, progress, folder.path)
    if Objective.LATENCY in costs:
        folder.write_costs(costs[Objective.LATENCY])
    limits = Limits(job.constraints, baseline)
    past = folder.past()
    plans = [template.plan for template in templates]
    guidance = guide(job, prepared, table, costs, baseline, limits, plans)
    strategy = Strategy(
        prepared.space,
        guidance.seeds,
        objectives=job.goals,
        limits=limits,
        sampler=job.sampler,
        seed=job.seed,
        past=past,
        log=folder,
        proposer=guidance.proposer,
    )
    find = partial(_frontier, job, limits, baseline)
    with _executor(job, factory, prepared, progress) as executor:
        pruner, recorders = guidance.pruner, (folder, tracker, progress, interrupts)
        rounds = partial(_run_rounds, job, strategy, pruner, executor, prepared, past, *recorders)
        ended = _measure(rounds, find, executor, prepared, folder, progress)
        interrupts.hold()
    candidates = ended.candidates
    with progress.stage("writing the study", None):
        write_study(folder.path / files.STUDY, prepared.space, job.goals, limits, candidates)
    frontier = find(candidates)
    findings = Findings(
        facts=settle_facts(job, facts, prepared, frontier, ended.reason),
        job_text=dump_job(job),
        environment=environment,
        sites=prepared.captured.sites,
        candidates=candidates,
        frontier=frontier,
        sensitivity=table,
    )
    result = write_findings(findings, prepared, folder, tracker, progress)
    if ended.error is not None:
        raise ended.error
    return result


def _measure(
    rounds: Callable[[], Ended],
    find: FindFrontier,
    executor: Executor,
    prepared: Preparation,
    folder: ResultFolder,
    progress: Progress,
) -> Ended:
    """Run the rounds, then look at the frontier again; what breaks in keeps what is finished."""
    is_timed = Phase.LATENCY in prepared.phases
    try:
        ended = rounds()
        if ended.reason in (StopReason.INTERRUPTED, StopReason.FAILED):
            return ended
        candidates = ended.candidates
        if is_timed and not is_estimate(prepared.settings.build.backend):
            candidates = time_again(candidates, find, executor, folder, progress)
        if prepared.subject.heldout is not None:
            candidates = score_heldout(candidates, find, executor, folder, progress)
    except KeyboardInterrupt:
        return Ended(folder.past().candidates, StopReason.INTERRUPTED)
    except ExecutionError as error:
        known = folder.past().candidates
        if all(item.failure is not None for item in known):
            raise
        return Ended(known, StopReason.FAILED, error)
    return replace(ended, candidates=candidates)


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


def _open_tracker(
    job: SearchSettings, facts: SearchFacts, environment: Mapping[str, Any]
) -> Tracker:
    if not job.tracking.enabled:
        return NullRecorder()
    settings = TrackingSettings(
        uri=job.tracking_uri,
        experiment=job.experiment,
        tags=job.tracking.tags,
    )
    return BackgroundTracker(open_recorder(settings, facts, dump_job(job), environment))


def _measure_baseline(
    evaluator: PlanEvaluator, folder: ResultFolder, progress: Progress
) -> Measurements:
    """Measure the float model, or take over what an earlier process measured."""
    if (folder.path / files.BASELINE).exists():
        return load_baseline(folder.path)
    with progress.stage("measuring the float model", None):
        baseline = evaluator.baseline()
    folder.write_baseline(baseline)
    return baseline


def _factory(
    job: SearchSettings,
    recipe: SubjectRecipe,
    prepared: Preparation,
    evaluator: PlanEvaluator,
    reference: Scheme | None,
) -> EvaluatorFactory:
    """What gives an executor its evaluators: in this process, the one that is open already."""
    if job.execution.kind == "local":
        evaluator.refer_to(reference)
        return lambda: evaluator
    settings = replace(prepared.settings, reference=reference)
    return EvaluatorRecipe(recipe, prepared.statistics, settings)


@contextmanager
def _executor(
    job: SearchSettings, factory: EvaluatorFactory, prepared: Preparation, progress: Progress
) -> Iterator[Executor]:
    """Start the workers, and stop them at the end whatever happens."""
    threads = torch.get_num_threads()
    if job.execution.kind == "local":
        torch.set_num_threads(prepared.settings.quality_threads)
    with progress.stage(f"starting workers ({job.execution.kind})", None):
        executor = start_executor(job.execution, factory)
    try:
        yield executor
    finally:
        executor.close()
        torch.set_num_threads(threads)


def _run_rounds(
    job: SearchSettings,
    strategy: Strategy,
    pruner: Pruner,
    executor: Executor,
    prepared: Preparation,
    past: Past,
    folder: ResultFolder,
    tracker: Tracker,
    progress: Progress,
    interrupts: Interrupts,
) -> Ended:
    for candidate in past.candidates:
        tracker.candidate(candidate)
    total = max(job.budget.trials, strategy.seed_count)
    with progress.stage("searching", total) as advance:
        counter = _Counter(advance, len(prepared.phases))
        rounds = Rounds(
            strategy,
            executor,
            phases=prepared.phases,
            budget=job.budget,
            known=past.candidates,
            pruner=pruner,
            recorder=JointRecorder((folder, tracker, progress, counter, interrupts)),
            clock=time.monotonic,
        )
        advance(len(past.candidates))
        return rounds.run()


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
    return find_frontier(kept, baseline, job.goals)
