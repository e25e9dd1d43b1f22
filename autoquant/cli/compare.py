"""`autoquant compare`: a plan beside its float model, op by op."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoquant.cli.options import (
    JobFile,
    Overrides,
    PlanText,
    is_tunable,
    load_with,
    print_json,
    say_next,
    stdout,
    table_of,
    terminal,
)

if TYPE_CHECKING:
    from rich.table import Table

    from autoquant.core.findings.layers import Cause, LayerComparison, LayerRow


def compare(
    job_file: JobFile,
    plan: PlanText = "int8",
    mode: Annotated[
        str,
        typer.Option(
            help="What quantized ops are fed. unshadowed: each model its own activations, so that "
            "errors pile up; shadowed: the float model's activations, so that each op shows its "
            "own error; n-shadows: so for several --schemes at once."
        ),
    ] = "unshadowed",
    schemes: Annotated[
        str, typer.Option(help="For n-shadows, comma-separated: int8,int16,fp16.")
    ] = "",
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many evaluation samples; default: all.")
    ] = None,
    indices: Annotated[
        str | None,
        typer.Option(
            help='Which evaluation samples: 3,17, or a JSON file {"indices": [3, 17]}, as badcases '
            "writes it."
        ),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Print the weights' table too.")
    ] = False,
    error: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="Compare by a function of your own too, in a column: FUNCTION(expected, found) "
            "gets an op's tensor in the float model and the plan for a batch and gives a number, "
            "or one for each sample; shown is the mean over samples.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write tables and pictures here.")] = None,
    overrides: Overrides = None,
) -> int:
    """Compare a plan with the float model op by op: where is the error, and why.

    Ops are listed in execution order. Those below 20 dB of SQNR are read: out of range (values
    clip; the range needed is told), too coarse (which dtype would do), outliers (few values or
    channels set the scale), weights, or inherited from an op before.

    Start unshadowed, on the samples that come out worst; then look at the ops where the SQNR falls
    with --mode shadowed.
    """
    from autoquant.debugging.compare import compare_job
    from autoquant.debugging.indices import read_indices
    from autoquant.model.data.entry_points import load_entry
    from autoquant.model.recipes import JobRecipe

    job = load_with(job_file, overrides)
    own = None if error is None else load_entry(error)
    chosen = None if indices is None else read_indices(indices)
    progress = terminal()
    found = compare_job(
        job,
        JobRecipe(job),
        plan,
        progress,
        mode=mode,
        schemes=[name for name in schemes.split(",") if name],
        samples=samples,
        indices=chosen,
        error=own,
    )
    if html is not None:
        _write(found, html, job.name)
    if as_json:
        print_json(found)
        return 0
    _print(found, weights=weights)
    if html is not None:
        stdout().print(f"report: {html}", soft_wrap=True)
    if is_tunable(job):
        words = [] if indices is None else ["--indices", str(indices)]
        say_next("sensitivity", job_file, overrides, *words)
    else:
        say_next("diagnose", job_file, overrides, "--plan", plan)
    return 0


def _write(found: LayerComparison, path: Path, name: str) -> None:
    from autoquant.results.layers_report import render_layers
    from autoquant.results.storage import write_text

    write_text(path, render_layers(found, name))


def _print(found: LayerComparison, *, weights: bool) -> None:
    from autoquant.core.findings.layers import Cause
    from autoquant.results.layers_table import said

    console = stdout()
    title = f"activations, {found.mode.value}, {found.samples} samples"
    console.print(_table(found.rows, title, found.own))
    if weights:
        console.print(_table(found.weights, "weights, batch norms folded", None))
    if found.output is not None:
        console.print(
            f"outputs ({found.kind.value}): SQNR {found.output.sqnr_db:.1f} dB, "
            f"cosine {found.output.cosine:.5f}, KL {found.output.kl:.3g}",
        )
    inherited = [row for row in found.findings if _cause(row) is Cause.INHERITED]
    for row in found.findings:
        if row not in inherited:
            text = f"{row.label} ({row.part.value}, {row.error.sqnr_db:.1f} dB): {said(row)}"
            console.print(text)
    if inherited:
        console.print(
            f"{len(inherited)} ops inherit the error of ops before them, from "
            f"{inherited[0].label} on; --mode shadowed shows each op's own",
        )
    if found.mend is not None:
        console.print(f"tried on these samples ({found.kind.value}): {found.mend}")
    if not found.findings:
        console.print("no op is further from float than 20 dB")


def _cause(row: LayerRow) -> Cause | None:
    return None if row.reading is None else row.reading.cause


def _table(rows: tuple[LayerRow, ...], title: str, own: str | None) -> Table:
    from autoquant.results.layers_table import SHORT, cells, with_own

    columns = dict(with_own(SHORT, own))
    if len({row.scheme for row in rows}) > 1:
        columns = {
            "op": columns.pop("op"),
            "scheme": lambda row: row.scheme.value if row.scheme else "",
            **columns,
        }
    numbers = columns.keys() - {"op", "scheme", "type", "dtype"}
    shown = table_of(columns, right=numbers, title=title, box=None)
    for line in cells(rows, columns):
        shown.add_row(*line)
    return shown
