"""A search, from its job to its frontier: read `_search` first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from autoquant.backends.targets import check_target
from autoquant.core.backends import is_estimate
from autoquant.core.costs import CostTable
from autoquant.core.evaluation import Executor, Phase
from autoquant.core.history import StopReason
from autoquant.core.measurement import Candidate, Measurements, fastest_float
from autoquant.core.objectives import Objective
from autoquant.core.progress import Progress
from autoquant.core.sensitivity import Procedure, SensitivityTable
from autoquant.errors import AutoquantError, JobError, StorageError
from autoquant.job import Effort, Execution, SearchSettings, SensitivitySettings, dump_job
from autoquant.model.recipes import SubjectRecipe, load_subject
from autoquant.model.subject import Subject
from autoquant.results import files
from autoquant.results.choices import find_shown
from autoquant.results.environment import TIMED_ON, describe_environment
from autoquant.results.findings import SearchFacts
from autoquant.results.folder import ResultFolder
from autoquant.results.forms import COSTS, ENVIRONMENT, FACTS, SPACE
from autoquant.results.mlflow.background import BackgroundTracker
from autoquant.results.mlflow.store import open_recorder, tracking_of
from autoquant.results.recorders import Tracker
from autoquant.results.wording import uniform_label
from autoquant.searching.baseline import measure_baseline, with_heldout
from autoquant.searching.begun import Begun
from autoquant.searching.doubts import doubt_kernels
from autoquant.searching.facts import open_facts, taken_before, with_taken
from autoquant.searching.files import write_findings, write_preparation
from autoquant.searching.frontier_again import score_heldout, time_again, time_single
from autoquant.searching.guidance import Guidance, find_costs, guide, plain_pruner
from autoquant.searching.interrupts import taken
from autoquant.searching.measuring.evaluator import EvaluatorRecipe
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
_NOTHING_YET = Ended((), None)


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
    for setup in (job, *map(job.on, job.rivals or ())):
        check_target(measurement_settings(setup).build)
    templates = (*load_templates(job.seeds), *templates)
    with closing(_open_folder(job, resume)) as folder, taken(progress.note) as interrupts:
        facts = open_facts(job, folder, resume)
        job_text = dump_job(job)
        folder.write_job(job_text)
        check_executor(job.execution)
        timed = timed_place(job, recipe)
        environment = _timed_on(timed, job, folder)
        begun = Begun(
            job=job,
            job_text=job_text,
            recipe=recipe,
            templates=templates,
            timed=timed,
            deadline=deadline,
            folder=folder,
            facts=facts,
            environment=environment,
            progress=progress,
            tracker=_open_tracker(job, job_text, facts, environment),
            interrupts=interrupts,
        )
        try:
            return _search(begun)
        except BaseException as error:
            interrupts.hold()
            begun.tracker.stop(str(error) or "interrupted")
            raise


def _search(begun: Begun) -> SearchResult:
    """The order of the work; each step goes on from what those above it found."""
    subject = load_subject(begun.recipe, begun.progress)
    prepared = _prepare(begun, subject)
    baseline = measure_baseline(begun, prepared)
    if begun.job.is_about_time_alone:
        prepared = _without_slow_floats(begun, prepared, baseline)
    search = _Search(begun, Stages(begun, prepared, baseline))
    for step in (search.answer, search.compete, search.rank, search.finish):
        search.take(step)
    begun.interrupts.hold()
    return search.leave()


@dataclass
class _Search:
    """A search that is prepared, and what it has found out.

    Attributes:
        begun: What it was begun with.
        stages: Of the float model as far as it is measured.
        ended: How the last step ended.
        table: How sensitive each knob is.
        times: What each op costs, where costs are times.
        guidance: What leads it after its answer; None: it ended before.
    """

    begun: Begun
    stages: Stages
    ended: Ended = _NOTHING_YET
    table: SensitivityTable | None = None
    times: CostTable | None = None
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        self.stages.prepared.evaluator.refer_to(fastest_float(self.stages.baseline))
        for candidate in self.begun.folder.past().candidates:
            self.begun.tracker.candidate(candidate)

    def take(self, step: Callable[[], None]) -> None:
        """Take a step, unless the search is broken; what breaks in it keeps what is finished."""
        if self.ended.is_broken:
            return
        try:
            step()
        except KeyboardInterrupt:
            self.ended = Ended(self.begun.folder.past().candidates, StopReason.INTERRUPTED)
        except StorageError:
            raise
        except AutoquantError as error:
            self.ended = Ended(self.begun.folder.past().candidates, StopReason.FAILED, error)

    def answer(self) -> None:
        """Measure the uniform plans."""
        stages = self.stages
        pruner = plain_pruner(self.begun.job, stages.prepared, stages.limits)
        with self._executor(self._near) as executor:
            self.ended = stages.answer_first(executor, pruner)
        notice = doubt_kernels(self.ended.candidates, stages.prepared)
        if notice is not None:
            self.begun.progress.note(notice)
            prepared = stages.prepared.with_space(stages.prepared.space, (notice,))
            self.stages = replace(stages, prepared=prepared)

    def compete(self) -> None:
        """Time the float model on other engines."""
        begun, stages = self.begun, self.stages
        if begun.job.rival_engines:
            found = begun.timed.rivals(stages.prepared, begun.job, stages.baseline, begun.progress)
            self.stages = stages.knowing(found)

    def rank(self) -> None:
        """Find out what leads the search beyond its answer, if it goes there."""
        if self.ended.reason is not None:
            return
        begun, stages, found = self.begun, self.stages, self.ended.candidates
        job, prepared, folder = begun.job, stages.prepared, begun.folder
        self.table = rank_by_sensitivity(_ranking(job), prepared, begun.progress, folder.path)
        times = times_of_uniform(found, prepared, stages.baseline) if begun.is_quick else None
        costs = find_costs(
            job.goals,
            prepared,
            begun.progress,
            folder.path,
            times,
            begun.timed.profile,
            stages.baseline,
        )
        if Objective.LATENCY in costs and not begun.is_quick:
            self.times = costs[Objective.LATENCY]
            folder.write(COSTS, self.times)
        folder.write(FACTS, with_taken(begun.facts, prepared.kept))
        plans = [template.plan for template in begun.templates]
        self.guidance = guide(
            job,
            prepared,
            self.table,
            costs,
            stages.baseline,
            stages.limits,
            plans,
            found,
            note=begun.progress.note,
        )

    def finish(self) -> None:
        """Go on where there is guidance, then look at the frontier again."""
        led = self.guidance is not None and not self.begun.is_quick
        with self._executor(self.begun.job.execution if led else self._near) as executor:
            if self.guidance is not None:
                self.ended = self.stages.go_on(self.guidance, executor)
            if not self.ended.is_broken:
                self.ended = replace(self.ended, candidates=self._looked_at_again(executor))

    def _looked_at_again(self, executor: Executor) -> tuple[Candidate, ...]:
        """Time the members again, score them on held-out data, time the shown ones at batch 1."""
        begun, prepared = self.begun, self.stages.prepared
        folder, progress, candidates = begun.folder, begun.progress, self.ended.candidates
        is_timed_again = (
            Phase.LATENCY in prepared.phases
            and not begun.is_quick
            and not is_estimate(prepared.settings.build.backend)
        )
        if is_timed_again:
            candidates = time_again(candidates, self.stages.find, executor, folder, progress)
        due = self._due_on_heldout(candidates)
        if due:
            self.stages = with_heldout(self.stages)
            candidates = score_heldout(candidates, due, executor, folder, progress)
        if is_timed_again and prepared.latency_batch > 1:
            shown = find_shown(self.stages.findings(candidates, None))
            candidates = time_single(candidates, shown, executor, folder, progress)
        return candidates

    def _due_on_heldout(self, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """What is scored on held-out data: the frontier, or in a quick search what data chose.

        A uniform plan is one of two or three, whatever the evaluation data are.
        """
        if self.stages.prepared.subject.heldout is None:
            return ()
        if not self.begun.is_quick:
            return self.stages.find(candidates).members
        chosen = self.stages.findings(candidates, None).chosen
        if chosen is None:
            return ()
        label = uniform_label(chosen)
        if label is None:
            return (chosen,)
        self.begun.progress.note(
            f"held-out data are not scored: the choice, {label}, is a uniform plan, which the "
            "evaluation data do not flatter"
        )
        return ()

    def leave(self) -> SearchResult:
        """Write what was found; what broke the search is raised after that."""
        begun, stages, prepared = self.begun, self.stages, self.stages.prepared
        ended, goals = self.ended, self.begun.job.goals
        with begun.progress.stage("writing the study", None):
            path = begun.folder.path / files.STUDY
            write_study(path, prepared.space, goals, stages.limits, ended.candidates)
        findings = replace(
            stages.findings(ended.candidates, ended.reason, self.table), costs=self.times
        )
        result = write_findings(findings, prepared, begun.folder, begun.tracker, begun.progress)
        if ended.error is not None:
            raise ended.error
        return result

    @property
    def _near(self) -> Execution:
        """Where the few plans of an answer are measured: on a cluster, or in this process."""
        asked = self.begun.job.execution
        near = Execution(kind="local", timeout=asked.timeout)
        return near if asked.address is None else asked

    @contextmanager
    def _executor(self, execution: Execution) -> Iterator[Executor]:
        """Start the workers, and stop them at the end whatever happens.

        In this process it is the evaluator that is open already.
        """
        begun, prepared = self.begun, self.stages.prepared
        threads = torch.get_num_threads()
        settings = replace(prepared.settings, reference=fastest_float(self.stages.baseline))
        if execution.kind == "local":
            torch.set_num_threads(settings.quality_threads)
            executor = start_executor(execution, lambda: prepared.evaluator)
        else:
            with begun.progress.stage(f"starting workers ({execution.kind})", None):
                factory = EvaluatorRecipe(begun.recipe, prepared.statistics, settings)
                is_timed = Phase.LATENCY in prepared.phases
                cpu = begun.environment[TIMED_ON]["cpu"] if is_timed else None
                executor = start_executor(execution, factory, begun.progress.note, cpu)
        try:
            yield executor
        finally:
            executor.close()
            torch.set_num_threads(threads)


def _prepare(begun: Begun, subject: Subject) -> Preparation:
    """Read the model, calibrate it and open the target, as far as earlier runs did not."""
    job, folder, progress = begun.job, begun.folder, begun.progress
    prepared = prepare(
        _timed_briefly(job),
        subject,
        progress,
        folder.path,
        templates=begun.templates,
        looks=True,
        settle=begun.timed.settle,
        kept=open_kept(job, begun.environment[TIMED_ON], progress.note, taken_before(begun.facts)),
    )
    prepared = begun.timed.narrow(refuse_unfaithful(prepared, progress), progress)
    write_preparation(folder, prepared, with_taken(begun.facts, prepared.kept))
    return prepared


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
    job: SearchSettings, job_text: str, facts: SearchFacts, environment: Mapping[str, Any]
) -> Tracker:
    settings = tracking_of(job)
    if settings is None:
        return Tracker()
    return BackgroundTracker(open_recorder(settings, facts, job_text, environment))


def _without_slow_floats(
    begun: Begun, prepared: Preparation, baseline: Measurements
) -> Preparation:
    """Leave out floats that are slow here, but for those that plans hold which must be told of."""
    past = begun.folder.past().candidates
    tried = [*(item.plan for item in begun.templates), *(item.plan for item in past)]
    kept = {scheme for plan in tried for _, scheme in plan.assignment}
    space, notices = without_slow_floats(prepared.space, baseline, kept)
    for notice in notices:
        begun.progress.note(notice)
    begun.folder.write(SPACE, space)
    return prepared.with_space(space, notices)


def _timed_on(timed: TimedPlace, job: SearchSettings, folder: ResultFolder) -> Mapping[str, Any]:
    """Note where times are taken."""
    machine = timed.machine()
    if job.is_timed and (folder.path / files.BASELINE).exists():
        before = ENVIRONMENT.load(folder.path)
        known = before.get(TIMED_ON, {}).get("cpu") or before.get("cpu", {}).get("model")
        if known not in (None, machine["cpu"]):
            raise JobError(
                f"this search was timed on {known}, and {machine['host']} has {machine['cpu']}: "
                "their times cannot be compared",
                hint="go on where it began, name such a node by execution.target, or begin anew "
                "with another output",
            )
    found = {**describe_environment(), TIMED_ON: machine}
    folder.write(ENVIRONMENT, found)
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
