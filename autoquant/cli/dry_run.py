"""`--dry-run` of search, tune and finetune: what would be done, and for how long."""

from __future__ import annotations

import math
import time
from fnmatch import fnmatchcase

from rich.console import Console

from autoquant.cli.options import table_of
from autoquant.core.evaluation import Phase, Task
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.finetuning.finetune import order_of
from autoquant.finetuning.order import many_steps, time_training
from autoquant.job import Job
from autoquant.model.recipes import JobRecipe, load_subject
from autoquant.results.wording import counts_text
from autoquant.searching.preparing.preparation import Preparation, prepare
from autoquant.searching.ranking.ranked import question_of
from autoquant.searching.ranking.sensitivity import count_exact_rows, settle_procedure
from autoquant.tuning.tune import check_goal, in_bits, prepare_tuning

_UNIFORM = 3
"""All int16, all int8, and all fp16 beside it."""


def print_dry_run(job: Job, progress: Progress, console: Console) -> None:
    """Print sites, knobs, the size of the space and an estimate of the search's time.

    The estimate comes from one all-fp32 candidate that is really built and measured.
    """
    subject = load_subject(JobRecipe(job), progress)
    prepared = prepare(job, subject, progress)
    _print_sites(prepared, f"{_power(prepared.space.plan_count)} plans", console)
    if prepared.captured.reach is not None:
        console.print(str(prepared.captured.reach))
    with progress.stage("timing one candidate", None):
        seconds = _seconds_of_one(prepared)
    workers = job.execution.workers if job.execution.kind == "ray" else 1
    parallel = sum(value for name, value in seconds.items() if name != Phase.LATENCY.value)
    alone = seconds.get(Phase.LATENCY.value, 0.0)
    trials = job.budget.trials
    total = trials * (parallel / workers + alone)
    console.print(
        f"one candidate takes about {parallel:.1f} s in parallel and {alone:.1f} s alone for its "
        f"latency; {trials} trials on {workers} worker{'s' if workers > 1 else ''} about "
        f"{total / 60:.1f} minutes (estimated), after a sensitivity table with at most "
        f"{_exact_rows(job, prepared)} rows measured exactly"
    )


def print_tuning(job: Job, progress: Progress, console: Console) -> None:
    """Print what `tune` would choose between, and an estimate from one plan that is measured.

    Raises:
        AutoquantError: What `tune` refuses.
    """
    goal = check_goal(job)
    subject = load_subject(JobRecipe(job), progress)
    prepared = prepare_tuning(in_bits(job), subject, progress)
    _print_sites(prepared, f"goal: an accuracy drop of at most {goal:g}", console)
    space = prepared.space
    with progress.stage("measuring one plan", None):
        began = time.perf_counter()
        prepared.evaluator.run(Phase.QUALITY, Task(0, space.uniform(Scheme.FP32)))
        seconds = time.perf_counter() - began
    halvings = math.ceil(math.log2(max(len(space.free), 1) + 1))
    plans = _UNIFORM + halvings + job.budget.trials
    console.print(
        f"at most about {plans} plans ({_UNIFORM} uniform ones, {halvings} halvings, "
        f"{job.budget.trials} of the search), {seconds:.1f} s each: {plans * seconds / 60:.1f} "
        f"minutes (estimated), after a sensitivity table with at most {_exact_rows(job, prepared)} "
        "rows measured exactly"
    )


def print_finetuning(job: Job, plan: str, progress: Progress, console: Console) -> None:
    """Print what `finetune` would train, and an estimate from two steps that are thrown away.

    Raises:
        AutoquantError: What `finetune` refuses.
    """
    task, prepared, chosen = order_of(job, plan, progress)
    with progress.stage("timing two steps", None):
        found = time_training(task, prepared, chosen)
    settings, sizes = task.settings, found.parameters
    console.print(f"plan: {counts_text(chosen)}")
    console.print(
        f"trained: {len(sizes)} parameters with {sum(sizes.values()):,} elements by "
        f"{settings.optimizer}; batch norms {settings.batch_norm.value}, ranges "
        f"{settings.ranges.value}",
    )
    for pattern, factor in settings.rate_factors.items():
        names = [name for name in sizes if fnmatchcase(name, pattern)]
        console.print(f"  {pattern}: rate x {factor:g} ({len(names)} parameters)")
    runs = len(settings.candidates) if settings.probe_steps else 0
    checks = min(settings.checks, settings.training_steps)
    looks = runs + checks + 1
    total = settings.budget * found.step_s + looks * found.look_s
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    probing = (
        f"{runs} runs of {settings.probe_steps} steps choose of the learning rates {rates}"
        if runs
        else f"the learning rate is {rates}, untried"
    )
    console.print(
        f"{probing}; then {settings.training_steps} steps with {checks} looks",
    )
    console.print(
        f"a step takes about {found.step_s:.3f} s and a look {found.look_s:.2f} s: "
        f"{total / 60:.1f} minutes (estimated); nothing is written",
    )
    if (many := many_steps(settings)) is not None:
        console.print(f"warning: {many}")


def _seconds_of_one(prepared: Preparation) -> dict[str, float]:
    evaluator = prepared.evaluator
    plan = prepared.space.uniform(Scheme.FP32)
    seconds: dict[str, float] = {}
    for phase in prepared.phases:
        evaluator.run(phase, Task(0, plan))
        for name, value in evaluator.run(phase, Task(0, plan)).seconds.items():
            seconds[name] = max(seconds.get(name, 0.0), value)
    return seconds


def _exact_rows(job: Job, prepared: Preparation) -> int:
    """How many rows of the sensitivity table are measured exactly, at most."""
    procedure = settle_procedure(job.sensitivity.method, prepared.captured)
    return count_exact_rows(procedure, question_of(prepared, job.sensitivity.samples))


def _print_sites(prepared: Preparation, about: str, console: Console) -> None:
    heads = ("site", "kind", "runs as", "output", "MMACs", "parameters", "knob", "schemes")
    table = table_of(heads, right=("MMACs", "parameters"), title="sites")
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
    console.print(table)
    knobs, free = len(prepared.space.knobs), len(prepared.space.free)
    sites = len(prepared.captured.sites)
    console.print(f"{sites} sites in {knobs} knobs, {free} of them free; {about}")


def _power(count: int) -> str:
    """A count, as a power of ten where it is large."""
    digits = len(str(count))
    return f"{count:,}" if digits <= 9 else f"about 10^{digits - 1}"
