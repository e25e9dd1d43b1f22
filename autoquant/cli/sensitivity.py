"""`autoquant sensitivity`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from autoquant.cli.options import (
    JobFile,
    Overrides,
    PlotFile,
    keep_picture,
    load_with,
    stdout,
    terminal,
)
from autoquant.core.precision import Scheme
from autoquant.errors import PlanError

if TYPE_CHECKING:
    from autoquant.core.findings.sensitivity_report import SensitivityReport
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
    scheme: Annotated[str, typer.Option(help="What --ratio raises them to.")] = "int16",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the table as CSV here; with --ratio the plan."),
    ] = None,
    plot: PlotFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    """Rank the ops of a job's model by what each scheme alone does to the outputs.

    A low SQNR is sensitive. Weights and activations are also shown apart, ops that are sensitive
    in both are named with what mends them, and a table that cannot be trusted is said to be so.
    """
    from autoquant.debugging.indices import read_indices
    from autoquant.debugging.sensitivity import examine_sensitivity
    from autoquant.model.subject import JobRecipe

    job = load_with(job_file, overrides, context.args)
    if ratio is not None:
        _check_raise(job, scheme, output)
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
        needed=() if ratio is None else ("int8", scheme),
    )
    written = _write(report, ratio, scheme, output)
    if plot is not None:
        from autoquant.results.plots.sensitivity import sensitivity_figure

        keep_picture(plot, sensitivity_figure(report.table, top), progress)
    if as_json:
        _print_json(report)
    else:
        _print(report, top, written)
    return 0


def _check_raise(job: Job, scheme: str, output: Path | None) -> None:
    """Refuse a plan that could not be made before anything is loaded."""
    if output is None:
        raise PlanError("--ratio makes a plan, and no file to write it to", hint="add -o plan.json")
    space = job.space
    wanted = {item for rule in space.rules for item in (rule.schemes or (rule.pin,)) if item}
    known = [item.value for item in Scheme if item in wanted | set(space.schemes)]
    for name in ("int8", scheme):
        if name not in known:
            raise PlanError(
                f"--ratio raises int8 ops to {scheme}, and this search space has no {name}",
                hint=f"it has {', '.join(known)}; --scheme names another, --set space=npu has "
                "int8, int16 and fp16",
            )


def _write(
    report: SensitivityReport, ratio: float | None, scheme: str, output: Path | None
) -> str | None:
    """Write the plan or the table; says what was written."""
    from autoquant.core.raised_plans import raise_most_sensitive
    from autoquant.results.plan_file import plan_file_text
    from autoquant.results.sensitivity_file import write_sensitivity
    from autoquant.results.storage import write_text
    from autoquant.results.wording import counts_text

    if output is None:
        return None
    if ratio is None:
        write_sensitivity(output, report.table)
        return f"table: {output}"
    plan = raise_most_sensitive(report.table, ratio=ratio, scheme=scheme)
    write_text(output, plan_file_text(plan))
    return f"plan: {output}: {counts_text(plan)}; search from it with --set 'seeds=[{output}]'"


def _print_json(report: SensitivityReport) -> None:
    from autoquant.results.sensitivity_text import sensitivity_json

    typer.echo(json.dumps(sensitivity_json(report), indent=2))


def _print(report: SensitivityReport, top: int, written: str | None) -> None:
    from autoquant.cli.ranking import metric_note, ranking_tables
    from autoquant.results.sensitivity_text import sensitivity_sentences

    console = stdout()
    for table in ranking_tables(report, top):
        console.print(table)
    note = metric_note(report)
    for sentence in (*([note] if note else []), *sensitivity_sentences(report)):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    if written is not None:
        Console(emoji=False).print(written, highlight=False, markup=False, soft_wrap=True)
