"""A finished search's plans, built and measured on another backend."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoquant.core.calls import checked
from autoquant.core.evaluation import Phase, Task
from autoquant.core.measurement import Candidate, Failure, Measurement, Measurements
from autoquant.core.progress import Progress
from autoquant.core.readback import ReadBack
from autoquant.job import Job, backend_from_text, load_job
from autoquant.model.recipes import JobRecipe, load_subject
from autoquant.model.subject import Subject
from autoquant.results import files
from autoquant.results.findings import Setting
from autoquant.results.table import CandidateTable, candidate_table
from autoquant.results.terminal import shown
from autoquant.results.trust import refuse_stranger
from autoquant.searching.load import load_result
from autoquant.searching.measuring.evaluator import PlanEvaluator
from autoquant.searching.preparing.elsewhere import prepare_elsewhere
from autoquant.searching.preparing.equalising import equalised
from autoquant.searching.preparing.preparation import (
    Preparation,
    calibrate_subject,
    capture_subject,
)
from autoquant.searching.result import SearchResult

_PHASES = (Phase.QUALITY, Phase.LATENCY, Phase.HELDOUT)


@dataclass(frozen=True, slots=True, eq=False)
class Confirmation:
    """What another backend makes of the plans of a search.

    Attributes:
        target: The other backend, in words.
        rival: What its speed-ups are over.
        metric: What scored them.
        baseline: The float model's measurements, taken in the same run.
        before: The candidates as the search measured them.
        after: The same plans on the other backend; a plan that it refuses is a failure.
    """

    target: str
    rival: str
    metric: str
    baseline: Measurements
    before: tuple[Candidate, ...]
    after: tuple[Candidate, ...]

    def table(self) -> CandidateTable:
        """The plans that the other backend runs, as a table."""
        built = [item for item in self.after if item.failure is None]
        return candidate_table(built, self.baseline, self.rival, self.metric)

    @property
    def substituted(self) -> tuple[str, ...]:
        """A sentence for each plan of which some ops, openly, run in another scheme there."""
        found = []
        for item in self.after:
            changed = Counter(
                (planned.value, str(item.executed[site]))
                for site, planned in item.plan.assignment
                if site in item.executed and item.executed[site].scheme is not planned
            )
            parts = [
                f"{count} ops planned as {planned} run as {runs}"
                for (planned, runs), count in changed.items()
            ]
            if parts:
                found.append(f"#{item.number}: {', '.join(parts)}.")
        return tuple(found)

    @property
    def refused(self) -> tuple[Candidate, ...]:
        """The plans that it does not run; each failure says why."""
        return tuple(item for item in self.after if item.failure is not None)


@checked
def confirm(
    folder: str | Path,
    backend: str,
    *,
    numbers: Sequence[int] = (),
    overrides: Sequence[str] = (),
    progress: Progress | bool | None = None,
    trust: bool = False,
) -> Confirmation:
    """Build the frontier of a finished search on another backend, and measure it there.

    Nothing is calibrated or searched again: the plans and the statistics are those of the search.
    Use it where a backend is too slow to search on (`inductor` compiles for half a minute), or to
    see what a plan is worth on a second target.

    Args:
        folder: The result folder of a search from a job file.
        backend: The other backend, or an engine of torch's (`inductor`, `openvino`, `fbgemm`).
        numbers: Candidates to confirm; none: the frontier.
        overrides: More settings of the job, as `dotted.key=value`.
        progress: Shown the progress; None: standard error is, False: nothing is.
        trust: Call the functions that the search's job names, also where somebody else wrote it.

    Raises:
        StorageError: The folder holds no finished search.
        JobError: Its search ran on a model in memory; or a setting is wrong.
        PlanError: There is no candidate of a number.
        BackendError: The backend is not installed.
    """
    progress = shown(progress)
    refuse_stranger(Path(folder), trust=trust)
    result = load_result(folder)
    chosen = tuple(map(result.candidate, numbers)) or result.frontier
    section = {**backend_from_text(backend), **_measured_as(result)}
    target = f"backend={json.dumps(section)}"  # JSON is YAML
    job = load_job(Path(folder) / files.JOB, [target, *overrides])
    subject = load_subject(JobRecipe(job), progress)
    there = _prepare(job, subject, result, progress)
    with progress.stage(f"opening {job.backend.name}", None):
        opened, evaluator = there.backend, there.evaluator
    phases = _PHASES if subject.heldout is not None else _PHASES[:-1]
    with progress.stage("measuring the float model", None):
        baseline = evaluator.baseline() | evaluator.heldout_baseline()
    after = []
    with progress.stage(f"confirming on {opened.name}", len(chosen)) as advance:
        for candidate in chosen:
            after.append(_measure(evaluator, candidate, phases))
            advance(1)
    return Confirmation(
        target=opened.name,
        rival=opened.rival,
        metric=result.findings.facts.metric,
        baseline=baseline,
        before=chosen,
        after=tuple(after),
    )


def _measured_as(result: SearchResult) -> dict[str, Setting]:
    """The settings of the search's latency measurement, which another backend keeps."""
    settings = result.findings.facts.settings
    found = {name: settings.get(f"backend.{name}") for name in ("threads", "batch_size", "pairs")}
    return {name: value for name, value in found.items() if value is not None}


def _prepare(job: Job, subject: Subject, result: SearchResult, progress: Progress) -> Preparation:
    """Prepare the other backend on the statistics and ranges of the search."""
    build = result.context.build
    captured = capture_subject(subject, progress)
    subject, captured = equalised(subject, captured, build.equalisation)
    statistics = calibrate_subject(subject, captured, progress, result.folder)
    return prepare_elsewhere(job, subject, captured, statistics, build, progress)


def _measure(evaluator: PlanEvaluator, candidate: Candidate, phases: Sequence[Phase]) -> Candidate:
    """Measure one plan; an emulated one has no latency, and that is no failure."""
    measured: dict[str, Measurement] = {}
    executed: ReadBack = {}
    failure: Failure | None = None
    for phase in phases:
        outcome = evaluator.run(phase, Task(candidate.number, candidate.plan))
        if phase is Phase.QUALITY and outcome.failure is not None:
            failure = outcome.failure
            break
        measured.update(outcome.measurements)
        executed = outcome.executed or executed
    return Candidate(
        candidate.number,
        candidate.plan,
        candidate.origin,
        measurements=measured,
        failure=failure,
        executed=executed,
    )
