"""`autoquant badcases`: the worst samples of a plan, and their tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from autoquant.cli.options import (
    DataName,
    JobFile,
    Overrides,
    PlanText,
    PlotFile,
    keep_picture,
    load_with,
    print_json,
    say_next,
    stdout,
    table_of,
    terminal,
)

if TYPE_CHECKING:
    from autoquant.core.findings.badcases import BadCases, OwnWorst


def badcases(
    job_file: JobFile,
    plan: PlanText = "int8",
    overrides: Overrides = None,
    top: Annotated[
        int, typer.Option(min=1, help="How many samples to keep for each output and metric.")
    ] = 10,
    data: DataName = "evaluation",
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many samples to look at; default: all.")
    ] = None,
    outputs: Annotated[
        str, typer.Option(metavar="NAMES", help="Which outputs, comma-separated; default: all.")
    ] = "",
    error: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="Rank by an error of your own too: FUNCTION(expected, found) gets what the float "
            "model and the plan return for a batch, and gives a number for each sample; higher is "
            "worse, or with FUNCTION.higher_is_better = True lower.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the samples here, as JSON.")
    ] = None,
    plot: PlotFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> int:
    """Find the samples on which a plan is furthest from the float model.

    Runs both over a data set and ranks the samples of every output by cosine similarity, mean
    squared and mean absolute error, KL divergence and SQNR. Few bad samples among good ones are
    outliers; where most are bad, the data do not matter, and an op is to blame.

    autoquant badcases experiments/digits.yaml --plan int8 --output badcases.json

    autoquant badcases experiments/digits.yaml --samples 128 --error errors.py:top5_changed

    autoquant diagnose experiments/digits.yaml --plan int8    # why, and what to do
    """
    from autoquant.core.backends import BY_TORCH
    from autoquant.debugging.badcases import bad_cases_of
    from autoquant.model.data.entry_points import load_entry
    from autoquant.results.storage import write_json
    from autoquant.searching.pair import build_pair, prepare_job

    job = load_with(job_file, overrides)
    own = None if error is None else load_entry(error)
    progress = terminal()
    prepared = prepare_job(job, progress, plan)
    pair = build_pair(prepared, plan, progress)
    cases = bad_cases_of(
        pair,
        data,
        top,
        progress,
        samples=samples,
        outputs=[name.strip() for name in outputs.split(",") if name.strip()],
        error=own,
    )
    document = {"data": data, "plan": pair.plan.digest, **cases.to_json()}
    if output is not None:
        write_json(output, document)
    if plot is not None:
        from autoquant.results.plots.sample_sqnr import sample_sqnr_figure

        keep_picture(plot, sample_sqnr_figure(cases), progress)
    if as_json:
        print_json(document)
        return 0
    console = stdout()
    for table in bad_case_tables(cases):
        console.print(table)
    console.print(summary(cases))
    if output is not None:
        console.print(f"samples: {output}", soft_wrap=True)
    words = ["--plan", plan]
    if prepared.captured.how == "modules":
        name, words = "sensitivity", []  # the others look into a graph
    elif job.backend.name not in BY_TORCH:
        name = "diagnose"
    else:
        name = "compare"
    if name != "diagnose" and output is not None and data == "evaluation":
        words += ["--indices", str(output)]
    say_next(name, job_file, overrides, *words)
    return 0


def bad_case_tables(cases: BadCases) -> Iterator[Table]:
    """Worst index by output and metric; its value; the worst over outputs, rank by rank."""
    from autoquant.core.findings.badcases import OutputMetric

    yield _by_output(cases, "worst sample of each output", "{0.index}")
    yield _by_output(cases, "its value", "{0.value:.4g}")
    table = _table("worst over outputs", "rank")
    ranked = [cases.over_outputs(metric) for metric in OutputMetric]
    named = len(cases.outputs) > 1
    for rank in range(max(len(cases.worst[key]) for key in cases.worst)):
        cells = [
            f"#{case.index}  {case.value:.4g}" + (f"  {name}" if named else "")
            for name, case in (row[rank] for row in ranked)
        ]
        table.add_row(str(rank + 1), *cells)
    yield table
    if cases.own is not None:
        yield _own_table(cases.own)


def _own_table(own: OwnWorst) -> Table:
    heads = ("rank", "sample", own.name)
    table = table_of(heads, right=heads, title=f"worst by {own.name}")
    for rank, case in enumerate(own.cases, 1):
        table.add_row(str(rank), f"#{case.index}", f"{case.value:.4g}")
    return table


def summary(cases: BadCases) -> str:
    """What the distribution over samples says."""
    worst = cases.sqnr.quantile(0.0)
    return (
        f"SQNR of the outputs: {cases.sqnr_db:.1f} dB over all {cases.samples} samples; of one "
        f"sample {cases.sqnr.quantile(0.5):.1f} dB in the median, {worst:.1f} dB at worst."
    )


def _by_output(cases: BadCases, title: str, form: str) -> Table:
    table = _table(title, "output")
    from autoquant.core.findings.badcases import OutputMetric

    for name in cases.outputs:
        table.add_row(name, *(form.format(cases.worst[name, metric][0]) for metric in OutputMetric))
    return table


def _table(title: str, first: str) -> Table:
    from autoquant.core.findings.badcases import OutputMetric

    numbers = [_HEADS[metric.value] for metric in OutputMetric]
    return table_of((first, *numbers), right=numbers, title=title)


_HEADS = {"cosine": "cosine", "mse": "MSE", "l1": "L1", "kl": "KL (nats)", "sqnr": "SQNR (dB)"}
