"""`autoquant init`: a first job file, and the Python file that it names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoquant.cli.options import stdout, terminal
from autoquant.errors import JobError

if TYPE_CHECKING:
    from autoquant.job.starter import Starter

_ENTRY = "package.module:function or path/file.py:function"


def init(
    name: Annotated[str, typer.Argument(help="Of the job: NAME.yaml is written.")],
    model: Annotated[str, typer.Option(help=f"Gives the model: {_ENTRY}.")] = "",
    calibration: Annotated[str, typer.Option(help="Gives calibration batches.")] = "",
    evaluation: Annotated[str, typer.Option(help="Gives batches with targets.")] = "",
    heldout: Annotated[str, typer.Option(help="Gives batches for a last look.")] = "",
    metric: Annotated[
        str,
        typer.Option(help="accuracy, agreement (no labels), mse, or a function or class of yours."),
    ] = "",
    target: Annotated[
        str, typer.Option(help="Batches are dicts: the key that holds the targets.")
    ] = "",
    backend: Annotated[str, typer.Option(help="On what the model will run.")] = "",
    max_drop: Annotated[float, typer.Option(help="How far the metric may fall.")] = 0.01,
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path(),
    ask: Annotated[
        bool | None,
        typer.Option(help="Ask for what no option says; by default on a terminal."),
    ] = None,
) -> int:
    """Write a first job: a YAML file, and a Python file for what it must load.

    Where model and data are named, the job is looked at at once: by check, or by a dry run where
    another engine than torch's is to run the plans.

    autoquant init mynet

    autoquant init mynet --model nets.py:load --calibration nets.py:train --evaluation nets.py:test
    """
    from autoquant.job.starter import Starter

    asks = sys.stdin.isatty() if ask is None else ask

    def said(value: str, question: str, default: str = "") -> str:
        return value or (typer.prompt(question, default=default) if asks else default)

    later = "leave empty to write it into a file"
    starter = Starter(
        name=name,
        model=said(model, f"Model, as {_ENTRY} ({later})") or None,
        calibration=said(calibration, f"Calibration batches ({later})") or None,
        evaluation=said(evaluation, f"Evaluation batches with targets ({later})") or None,
        heldout=heldout or None,
        metric=said(metric, "Metric", "accuracy"),
        target=said(target, "Key of the targets, where batches are dicts (empty: they are tuples)")
        or None,
        backend=said(backend, "Backend", "torch"),
        max_drop=max_drop,
    )
    return _write(starter, folder)


def _write(starter: Starter, folder: Path) -> int:
    from autoquant.job import load_job
    from autoquant.job.starter import entry_text, job_text
    from autoquant.results.storage import write_text

    job_file, entry_file = (folder / f"{starter.name}{end}" for end in (".yaml", ".py"))
    files = {job_file: job_text(starter)}
    if not starter.is_complete:
        files[entry_file] = entry_text(starter, "dict" if starter.target else "tuple")
    for path in files:
        if path.exists():
            raise JobError(
                f"{path} exists already", hint="choose another name, or another --folder"
            )
    for path, text in files.items():
        write_text(path, text)
    try:
        job = load_job(job_file)
    except JobError:
        for path in files:
            path.unlink()
        raise
    console = stdout()
    for path in files:
        console.print(f"wrote {path}", soft_wrap=True)
    if not starter.is_complete:
        console.print(f"fill in {entry_file}, then: {starter.first_look(job_file)}", soft_wrap=True)
        return 0
    if not starter.is_checked:
        from autoquant.cli.dry_run import print_dry_run

        print_dry_run(job, terminal(), console)
        console.print(f"next: autoquant search {job_file}", soft_wrap=True)
        return 0
    from autoquant.cli.check import EXIT_ATTENTION, print_report
    from autoquant.debugging.check import check_job

    report = check_job(job, "int8", terminal())
    print_report(report, console)
    console.print(f"next: autoquant search {job_file}", soft_wrap=True)
    return EXIT_ATTENTION if report.needs_attention else 0
