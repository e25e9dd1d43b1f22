"""`autoquant sensitivity`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoquant.cli.options import (
    JobFile,
    Overrides,
    PlotFile,
    is_tunable,
    keep_picture,
    load_with,
    plain,
    print_json,
    say_next,
    stdout,
    terminal,
)
from autoquant.core.precision import Scheme
from autoquant.errors import PlanError

if TYPE_CHECKING:
    from autoquant.core.findings.sensitivity_report import SensitivityReport
    from autoquant.core.plan import Plan
    from autoquant.job import Job


def sensitivity(
    context: typer.Context,
    job_file: JobFile,
    overrides: Overrides = None,
    indices: Annotated[
        str | None,
        typer.Option(
            metavar="3,17|FILE",
            help="Look at these evaluation samples alone: numbers from 0 on, or a JSON file "
            '{"indices": [...]}, as badcases writes it.',
        ),
    ] = None,
    metric_rows: Annotated[
        int,
        typer.Option(min=0, help="For how many of the noisiest rows to measure the metric's drop."),
    ] = 8,
    top: Annotated[int, typer.Option(min=1, help="How many knobs to show for each scheme.")] = 10,
    ratio: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Write, to --output, the all-int8 plan with this share of the knobs raised, the "
            "most sensitive first. A search takes it: --set seeds=\\[plan.json].",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Raise this many knobs, in the place of a share.")
    ] = None,
    scheme: Annotated[str, typer.Option(help="What --ratio or --count raises them to.")] = "int16",
    on: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN.json",
            help="Raise knobs of this plan, not of the all-int8 one: with --ratio 0.2 --scheme "
            "int16 first, then --count 1 --scheme fp16 on that.",
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            metavar="MEASURE",
            help="What ranks: sqnr, cosine, mse, l1, kl, or metric (your metric's drop, which is "
            "then measured for every row).",
        ),
    ] = "sqnr",
    saved: Annotated[
        Path | None,
        typer.Option("--table", metavar="CSV", help="Read a table that -o wrote; measure none."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the table as CSV here; with --ratio or --count the plan."
        ),
    ] = None,
    plot: PlotFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    """Rank the ops of a job's model by what each scheme alone does to the outputs.

    A low SQNR is sensitive. Weights and activations are also shown apart, ops that are sensitive
    in both are named with what mends them, and a table that cannot be trusted is said to be so.
    """
    from autoquant.core.sensitivity import Measure
    from autoquant.debugging.indices import read_indices
    from autoquant.debugging.sensitivity import examine_sensitivity
    from autoquant.model.recipes import JobRecipe

    job = load_with(job_file, overrides, context.args)
    measure = Measure.named(by)
    raising = None
    if ratio is not None or count is not None:
        raising = _raising(job, ratio, count, scheme, on, output)
    elif on is not None:
        raise PlanError("--on needs to know how many knobs to raise", hint="add --count 1")
    places: Sequence[int] | None = None if indices is None else read_indices(indices)
    progress = terminal()
    with progress.stage("loading model and data", None):
        subject = JobRecipe(job)()
    report = examine_sensitivity(
        job,
        subject,
        progress,
        indices=places,
        metric_rows=metric_rows,
        needed=() if raising is None else raising.needed,
        by=measure,
        saved=saved,
    )
    written = _write(report, raising, output)
    if plot is not None:
        from autoquant.results.plots.sensitivity import sensitivity_figure

        keep_picture(plot, sensitivity_figure(report.table, top), progress)
    if as_json:
        from autoquant.results.sensitivity_text import sensitivity_json

        print_json(sensitivity_json(report))
    else:
        _print(report, top, written)
        words = [] if raising is None else ["--set", f"seeds=[{output}]"]
        name = "tune" if raising is None and is_tunable(job) else "search"
        say_next(name, job_file, overrides, context.args, *words)
    return 0


@dataclass(frozen=True, slots=True)
class _Raising:
    """How a plan is made of the table.

    Attributes:
        ratio: Share of the knobs to raise, None: so many.
        count: How many, None: a share.
        scheme: What they take.
        base: The plan to start from; None: all int8.
    """

    ratio: float | None
    count: int | None
    scheme: str
    base: Plan | None

    @property
    def needed(self) -> tuple[str, ...]:
        """Schemes that it needs of the space."""
        return (self.scheme,) if self.base is not None else ("int8", self.scheme)


def _raising(
    job: Job,
    ratio: float | None,
    count: int | None,
    scheme: str,
    on: Path | None,
    output: Path | None,
) -> _Raising:
    """Refuse a plan that could not be made before anything is loaded."""
    from autoquant.core.plan import load_plan

    option = "--ratio" if count is None else "--count"
    if ratio is not None and count is not None:
        raise PlanError("--ratio and --count both say how many knobs to raise", hint="give one")
    if output is None:
        raise PlanError(
            f"{option} makes a plan, and no file to write it to", hint="add -o plan.json"
        )
    raising = _Raising(ratio, count, scheme, None if on is None else load_plan(on))
    space = job.space
    wanted = {item for rule in space.rules for item in (rule.schemes or (rule.pin,)) if item}
    known = [item.value for item in Scheme if item in wanted | set(space.schemes)]
    for name in raising.needed:
        if name not in known:
            raise PlanError(
                f"{option} raises int8 ops to {scheme}, and this search space has no {name}",
                hint=f"it has {', '.join(known)}; --scheme names another, --set space=npu has "
                "int8, int16 and fp16",
            )
    return raising


def _write(report: SensitivityReport, raising: _Raising | None, output: Path | None) -> str | None:
    """Write the plan or the table; says what was written."""
    from autoquant.core.raised_plans import raise_most_sensitive
    from autoquant.results.sensitivity_file import write_sensitivity
    from autoquant.results.storage import write_text
    from autoquant.results.wording import counts_text

    if output is None:
        return None
    if raising is None:
        write_sensitivity(output, report.table)
        return f"table: {output}"
    plan = raise_most_sensitive(
        report.table,
        ratio=raising.ratio,
        count=raising.count,
        scheme=raising.scheme,
        base=raising.base or "int8",
        by=report.by,
    )
    write_text(output, plan.file_text())
    return f"plan: {output}: {counts_text(plan)}"


def _print(report: SensitivityReport, top: int, written: str | None) -> None:
    from autoquant.cli.ranking import metric_note, ranking_tables
    from autoquant.results.sensitivity_text import sensitivity_sentences

    console = stdout()
    for table in ranking_tables(report, top):
        console.print(table)
    note = metric_note(report)
    for sentence in (*([note] if note else []), *sensitivity_sentences(report)):
        console.print(sentence, soft_wrap=True)
    if written is not None:
        plain().print(written, soft_wrap=True)
