"""A search, from its job to its frontier: read `run_search` first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from autoquant.backends.targets import check_target
from autoquant.core.backends import is_estimate
from autoquant.core.costs import CostTable
from autoquant.core.evaluation import Executor, Phase
from autoquant.core.history import StopReason
from autoquant.core.measurement import Measurements, fastest_float
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.progress import Progress
from autoquant.core.sensitivity import Procedure, SensitivityTable
from autoquant.errors import AutoquantError, JobError, StorageError
from autoquant.job import Effort, Execution, SearchSettings, SensitivitySettings, dump_job
from autoquant.model.subject import SubjectRecipe
from autoquant.results import files
from autoquant.results.choices import find_shown
from autoquant.results.environment import TIMED_ON, describe_environment
from autoquant.results.findings import SearchFacts
from autoquant.results.folder import ResultFolder
from autoquant.results.mlflow.background import BackgroundTracker
from autoquant.results.mlflow.store import TrackingSettings, open_recorder
from autoquant.results.reading import load_baseline, load_environment
from autoquant.results.recorders import NullRecorder, Tracker
from autoquant.searching.facts import open_facts, taken_before, with_taken
from autoquant.searching.files import write_findings, write_preparation
from autoquant.searching.frontier_again import score_heldout, time_again, time_single
from autoquant.searching.guidance import Guidance, find_costs, guide, plain_pruner
from autoquant.searching.interrupts import Interrupts, taken
from autoquant.searching.measuring.evaluator import EvaluatorRecipe, PlanEvaluator
from autoquant.searching.measuring.workers.start import check_executor, start_executor
from autoquant.searching.preparing.earlier import open_kept
from autoquant.searching.preparing.faithful_target import refuse_unfaithful
from autoquant.searching.preparing.narrowing import without_slow_floats
from autoquant.searching.preparing.preparation import Preparation, measurement_settings, prepare
from autoquant.searching.proposing.rounds import Ended
from autoquant.searching.proposing.study import write_study
from autoquant.searching.ranking.ranked import rank_by_sensitivity
from autoquant.searching.result import SearchResult
from autoquant.searching.settings import check_resumable
from autoquant.searching.stages import Stages, times_of_uniform
from autoquant.searching.target_node import TimedPlace, timed_place
from autoquant.searching.templates import Template, load_templates

_QUICK_PAIRS = 5


def run_search(
    job: SearchSettings,
    recipe: SubjectRecipe,
    progress: Progress,
    *,
    resume: bool,
    templates: Sequence[Template] = (),
) -> SearchResult:
    """Run a job.

    Returns:
        What was found, also when the search was interrupted.

    Raises:
        AutoquantError: A mistake that the user can mend; what was finished is kept.
    """
    minutes = job.budget.minutes
    deadline = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
    for setup in (job, *map(job.on, job.rivals)):
        check_target(measurement_settings(setup).build)
    templates = (*load_templates(job.seeds), *templates)
    with _open_folder(job, resume) as folder, taken(progress.note) as interrupts:
        facts = open_facts(job, folder, resume)
        folder.write_job(dump_job(job))
        check_executor(job.execution)
        timed = timed_place(job, recipe)
        environment = _timed_on(timed, job, folder)
        tracker = _open_tracker(job, facts, environment)
        try:
            return _search(
                *(job, recipe, progress, interrupts, folder, tracker),
                *(facts, environment, templates, deadline, timed),
            )
        except BaseException as error:
            interrupts.hold()
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
    deadline: float,
    timed: TimedPlace,
) -> SearchResult:
    """The order of the work; each line consumes the values above it."""
    with progress.stage("loading model and data", None):
        subject = recipe()
    prepared = prepare(
        *(_timed_briefly(job), subject, progress, folder.path),
        templates=templates,
        settle=timed.settle,
        kept=open_kept(job, environment[TIMED_ON], progress.note, taken_before(facts)),
    )
    prepared = timed.narrow(refuse_unfaithful(prepared, progress), progress)
    write_preparation(folder, prepared, with_taken(facts, prepared.kept))
    evaluator = prepared.evaluator
    baseline = _measure_baseline(timed, prepared, folder, progress)
    past = folder.past().candidates
    if job.is_about_time_alone:
        tried = [*(item.plan for item in templates), *(item.plan for item in past)]
        prepared = _without_slow_floats(prepared, baseline, tried, progress)
        folder.write_space(prepared.space)
    evaluator.refer_to(fastest_float(baseline))
    stages = Stages(
        *(job, prepared, baseline, folder, tracker, progress, interrupts),
        *(facts, environment, deadline, dump_job(job)),
    )
    for candidate in past:
        tracker.candidate(candidate)
    is_quick = job.budget.effort is Effort.QUICK
    where = job.execution if job.execution.address is not None else Execution(kind="local")
    known = _Known()

    def answer() -> Ended:
        with _executor(where, recipe, prepared, evaluator, stages, progress) as executor:
            return stages.answer_first(executor, plain_pruner(job, prepared, stages.limits))

    def compete() -> Ended:
        nonlocal stages
        stages = stages.knowing(timed.rivals(prepared, job, stages.baseline, progress))
        return ended

    def rank() -> Ended:
        known.table = rank_by_sensitivity(_ranking(job), prepared, progress, folder.path)
        times = times_of_uniform(ended.candidates, prepared, baseline) if is_quick else None
        costs = find_costs(
            job.goals, prepared, progress, folder.path, times, timed.profile, baseline
        )
        if Objective.LATENCY in costs and not is_quick:
            known.times_of_ops = costs[Objective.LATENCY]
            folder.write_costs(known.times_of_ops)
        folder.write_facts(with_taken(facts, prepared.kept))
        plans, found = [template.plan for template in templates], ended.candidates
        known.guidance = guide(
            job, prepared, known.table, costs, baseline, stages.limits, plans, found
        )
        return ended

    def finish() -> Ended:
        nonlocal stages
        stages = _with_heldout(stages)
        workers = where if known.guidance is None or is_quick else job.execution
        with _executor(workers, recipe, prepared, evaluator, stages, progress) as executor:
            return _finish(stages, known.guidance, ended, executor)

    ended = _unless_broken(answer, folder)
    if job.rivals and not ended.is_broken:
        ended = _unless_broken(compete, folder)
    if ended.reason is None:
        ended = _unless_broken(rank, folder)
    if not ended.is_broken:
        ended = _unless_broken(finish, folder)
    interrupts.hold()
    return _leave(stages, known, ended)


@dataclass
class _Known:
    """What a search has found out about its knobs when it ends, wherever that is."""

    table: SensitivityTable | None = None
    times_of_ops: CostTable | None = None
    guidance: Guidance | None = None


def _unless_broken(step: Callable[[], Ended], folder: ResultFolder) -> Ended:
    """Take a step of a search; what breaks in keeps what is finished."""
    try:
        return step()
    except KeyboardInterrupt:
        return Ended(folder.past().candidates, StopReason.INTERRUPTED)
    except StorageError:
        raise
    except AutoquantError as error:
        return Ended(folder.past().candidates, StopReason.FAILED, error)


def _finish(stages: Stages, guidance: Guidance | None, answer: Ended, executor: Executor) -> Ended:
    """Go on where there is guidance, then look at the frontier again."""
    prepared, folder, progress = stages.prepared, stages.folder, stages.progress
    is_timed = Phase.LATENCY in prepared.phases
    ended = answer if guidance is None else stages.go_on(guidance, executor)
    if ended.is_broken:
        return ended
    candidates = ended.candidates
    is_quick = stages.job.budget.effort is Effort.QUICK
    is_timed_again = is_timed and not is_quick and not is_estimate(prepared.settings.build.backend)
    if is_timed_again:
        candidates = time_again(candidates, stages.find, executor, folder, progress)
    if prepared.subject.heldout is not None:
        find = stages.find_chosen if is_quick else stages.find
        candidates = score_heldout(candidates, find, executor, folder, progress)
    if is_timed_again and prepared.latency_batch > 1:
        shown = find_shown(stages.findings(candidates, None))
        candidates = time_single(candidates, shown, executor, folder, progress)
    return replace(ended, candidates=candidates)


def _leave(stages: Stages, known: _Known, ended: Ended) -> SearchResult:
    """Write what was found; what broke the search is raised after that."""
    job, prepared, folder, progress = stages.job, stages.prepared, stages.folder, stages.progress
    with progress.stage("writing the study", None):
        parts = (prepared.space, job.goals, stages.limits, ended.candidates)
        write_study(folder.path / files.STUDY, *parts)
    findings = stages.findings(ended.candidates, ended.reason, known.table)
    findings = replace(findings, costs=known.times_of_ops)
    result = write_findings(findings, prepared, folder, stages.tracker, progress)
    if ended.error is not None:
        raise ended.error
    return result


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
    timed: TimedPlace, prepared: Preparation, folder: ResultFolder, progress: Progress
) -> Measurements:
    """Measure the float model, or take over what an earlier process measured."""
    if (folder.path / files.BASELINE).exists():
        return load_baseline(folder.path)
    with progress.stage("measuring the float model", None):
        baseline = timed.baseline(prepared)
    folder.write_baseline(baseline)
    return baseline


def _with_heldout(stages: Stages) -> Stages:
    """Score the float model on held-out data: once there is an answer, which needs none of it."""
    if stages.prepared.subject.heldout is None or "heldout_accuracy" in stages.baseline:
        return stages
    with stages.progress.stage("scoring the float model on held-out data", None):
        return stages.knowing(stages.prepared.evaluator.heldout_baseline())


def _without_slow_floats(
    prepared: Preparation, baseline: Measurements, tried: Iterable[Plan], progress: Progress
) -> Preparation:
    """Leave out floats that are slow here, but for those that plans hold which must be told of."""
    kept = {scheme for plan in tried for _, scheme in plan.assignment}
    space, notices = without_slow_floats(prepared.space, baseline, kept)
    for notice in notices:
        progress.note(notice)
    return prepared.with_space(space, notices)


def _timed_on(timed: TimedPlace, job: SearchSettings, folder: ResultFolder) -> Mapping[str, Any]:
    """Note where times are taken.

    Raises:
        JobError: What an earlier process of the search timed, it timed on another CPU.
    """
    machine = timed.machine()
    if job.is_timed and (folder.path / files.BASELINE).exists():
        before = load_environment(folder.path)
        known = before.get(TIMED_ON, {}).get("cpu") or before.get("cpu", {}).get("model")
        if known not in (None, machine["cpu"]):
            raise JobError(
                f"this search was timed on {known}, and {machine['host']} has {machine['cpu']}: "
                "their times cannot be compared",
                hint="go on where it began, name such a node by execution.target, or begin anew "
                "with another output",
            )
    found = {**describe_environment(), TIMED_ON: machine}
    folder.write_environment(found)
    return found


def _timed_briefly(job: SearchSettings) -> SearchSettings:
    """The job, in a quick search with no more pairs of a latency than tell plans apart."""
    if job.budget.effort is not Effort.QUICK:
        return job
    pairs = min(job.backend.pairs, _QUICK_PAIRS)
    return job.model_copy(update={"backend": job.backend.model_copy(update={"pairs": pairs})})


def _ranking(job: SearchSettings) -> SensitivitySettings:
    """How a job's knobs are ranked: in a quick search by gradient alone, where that is free."""
    asked = job.sensitivity
    if job.budget.effort is Effort.QUICK and asked.method is Procedure.AUTO:
        return asked.model_copy(update={"method": Procedure.GRADIENT})
    return asked


@contextmanager
def _executor(
    execution: Execution,
    recipe: SubjectRecipe,
    prepared: Preparation,
    evaluator: PlanEvaluator,
    stages: Stages,
    progress: Progress,
) -> Iterator[Executor]:
    """Start the workers, and stop them at the end whatever happens.

    In this process it is the evaluator that is open already.
    """
    threads = torch.get_num_threads()
    settings = replace(prepared.settings, reference=fastest_float(stages.baseline))
    if execution.kind == "local":
        torch.set_num_threads(settings.quality_threads)
        executor = start_executor(execution, lambda: evaluator)
    else:
        with progress.stage(f"starting workers ({execution.kind})", None):
            factory = EvaluatorRecipe(recipe, prepared.statistics, settings)
            is_timed = Phase.LATENCY in prepared.phases
            cpu = stages.environment[TIMED_ON]["cpu"] if is_timed else None
            executor = start_executor(execution, factory, progress.note, cpu)
    try:
        yield executor
    finally:
        executor.close()
        torch.set_num_threads(threads)
