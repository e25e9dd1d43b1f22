"""`autoquant tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoquant.cli.options import (
    JobFile,
    Overrides,
    PlotFile,
    keep_picture,
    load_with,
    say_next,
    stdout,
    table_of,
    terminal,
)

if TYPE_CHECKING:
    from autoquant.core.findings.tuning import TuneReport


def tune(
    job_file: JobFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be tuned, and for how long.")
    ] = False,
    plot: PlotFile = None,
) -> int:
    """Find the fewest int16 and fp16 ops that keep the accuracy, stage by stage.

    All int16 first (if that fails, the fewest fp16 ops beside it), then all int8, then as few int16
    ops as meet the goal: by bisection on the sensitivity ranking, and by a search from there. The
    goal is the job's constraints.accuracy_drop, the search's budget its budget.trials.

    Plans that were measured before are not measured again: run it again to go on.
    """
    from autoquant.core.backends import is_estimate
    from autoquant.model.recipes import JobRecipe
    from autoquant.results import files
    from autoquant.tuning.tune import run_tune

    job = load_with(job_file, overrides)
    progress = terminal()
    if dry_run:
        from autoquant.cli.dry_run import print_tuning

        print_tuning(job, progress, stdout())
        return 0
    report = run_tune(job, JobRecipe(job), progress)
    path = job.output / files.TUNE
    _print(report, path)
    if report.chosen is None:
        say_next("check", job_file, overrides)
    else:
        words = ["--set", f"seeds=[{path}]"]
        if job.is_timed and not is_estimate(job.backend.name):
            # a search for latency leaves out what this engine only emulates; by their share of
            # int16 alone floats would cost nothing
            words += ["--set", "objectives=[output_error,bops]"]
        say_next("search", job_file, overrides, *words)
    if plot is not None:
        from autoquant.results.plots.tuning import tuning_figure

        keep_picture(plot, tuning_figure(report), progress)
    return 0


def _print(report: TuneReport, path: Path) -> None:
    from autoquant.core.findings.tuning import RULE
    from autoquant.results import files
    from autoquant.results.tune_report import HEADS, tune_rows, tune_sentences, tune_unit

    console = stdout()
    drop = f"drop, {tune_unit(report).drop_unit}"
    heads = [drop if head == "drop" else head for head in HEADS]
    table = table_of(heads, right=("int16 share", drop))
    for row in tune_rows(report):
        table.add_row(*row)
    console.print(table)
    for sentence in (*tune_sentences(report), RULE):
        console.print(sentence)
    lines = [f"report: {path.with_name(files.TUNE_REPORT)}"]
    if report.chosen is not None:
        lines.append(f"plan: {path.with_name(files.TUNED)}")
    for line in lines:
        console.print(line, soft_wrap=True)
