"""`autoquant search --dry-run`: what would be searched, and for how long."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from autoquant.core.evaluation import Phase, Task
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.job import Job
from autoquant.model.subject import JobRecipe
from autoquant.searching.preparing.preparation import Preparation, prepare
from autoquant.searching.ranking.ranked import question_of
from autoquant.searching.ranking.sensitivity import count_exact_rows, settle_procedure


def print_dry_run(job: Job, progress: Progress, console: Console) -> None:
    """Print sites, knobs, the size of the space and an estimate of the search's time.

    The estimate comes from one all-fp32 candidate that is really built and measured.
    """
    with progress.stage("loading model and data", None):
        subject = JobRecipe(job)()
    prepared = prepare(job, subject, progress)
    console.print(_site_table(prepared))
    space = prepared.space
    console.print(
        f"{len(prepared.captured.sites)} sites in {len(space.knobs)} knobs, "
        f"{len(space.free)} of them free; {_power(space.plan_count)} plans"
    )
    if prepared.captured.reach is not None:
        console.print(str(prepared.captured.reach))
    with progress.stage("timing one candidate", None):
        seconds = _seconds_of_one(prepared)
    workers = job.execution.workers if job.execution.kind == "ray" else 1
    parallel = sum(value for name, value in seconds.items() if name != Phase.LATENCY.value)
    alone = seconds.get(Phase.LATENCY.value, 0.0)
    trials = job.budget.trials
    total = trials * (parallel / workers + alone)
    rows = count_exact_rows(
        settle_procedure(job.sensitivity.method, prepared.captured),
        question_of(prepared, job.sensitivity.samples),
    )
    console.print(
        f"one candidate takes about {parallel:.1f} s in parallel and {alone:.1f} s alone for its "
        f"latency; {trials} trials on {workers} worker{'s' if workers > 1 else ''} about "
        f"{total / 60:.1f} minutes (estimated), after a sensitivity table with at most "
        f"{rows} rows measured exactly"
    )


def _seconds_of_one(prepared: Preparation) -> dict[str, float]:
    evaluator = prepared.evaluator
    plan = prepared.space.uniform(Scheme.FP32)
    seconds: dict[str, float] = {}
    for phase in prepared.phases:
        evaluator.run(phase, Task(0, plan))
        for name, value in evaluator.run(phase, Task(0, plan)).seconds.items():
            seconds[name] = max(seconds.get(name, 0.0), value)
    return seconds


def _site_table(prepared: Preparation) -> Table:
    table = Table(title="sites", title_justify="left")
    for head in ("site", "kind", "runs as", "output", "MMACs", "parameters", "knob", "schemes"):
        table.add_column(head, justify="right" if head in ("MMACs", "parameters") else "left")
    knob_of = {site: knob for knob in prepared.space.knobs for site in knob.sites}
    for site in prepared.captured.sites:
        knob = knob_of[site.name]
        own = knob.name == site.name
        table.add_row(
            site.name,
            site.kind.value,
            "+".join(site.fused),
            "x".join(map(str, site.output_shape[1:])),
            f"{site.macs / 1e6:.2f}" if site.macs else "",
            str(site.parameter_count) if site.parameter_count else "",
            "" if own else f"with {knob.name}",
            ", ".join(scheme.title for scheme in knob.schemes) if own else "",
        )
    return table


def _power(count: int) -> str:
    """A count, as a power of ten where it is large."""
    digits = len(str(count))
    return f"{count:,}" if digits <= 9 else f"about 10^{digits - 1}"
