"""Commands. Exit codes: 0 done, 1 `check` found something, 2 a mistake, 130 interrupted."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from autoquant import __version__
from autoquant.cli.backends import backends
from autoquant.cli.badcases import badcases
from autoquant.cli.calibrate import calibrate
from autoquant.cli.check import check
from autoquant.cli.compare import compare
from autoquant.cli.confirm import confirm
from autoquant.cli.diagnose import diagnose
from autoquant.cli.finetune import finetune
from autoquant.cli.init import init
from autoquant.cli.options import (
    Dotted,
    JobFile,
    Overrides,
    Trust,
    Wide,
    load_with,
    plain,
    print_candidates,
    say_next,
    stdout,
    terminal,
)
from autoquant.cli.sensitivity import sensitivity
from autoquant.cli.tune import tune
from autoquant.core.secrets import masked
from autoquant.errors import AutoquantError

if TYPE_CHECKING:
    from autoquant.job import Job

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130


class _Commands(TyperGroup):
    """Tells an interrupt apart from an exit code; typer makes the same of both."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Abort from error


app = typer.Typer(
    name="autoquant",
    cls=_Commands,
    help=(
        "Find the best trade-offs between accuracy, latency and size of a PyTorch model, op by op, "
        "on real quantized kernels.\n\n"
        "Exit codes: 0 done; 1 `check` found something that needs attention; 2 a mistake "
        "that can be mended (the message says how); "
        "130 interrupted, everything finished is kept."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        plain().print(f"autoquant {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    console = plain(stderr=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has a plus-minus sign
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(args=list(argv) if argv is not None else None, standalone_mode=False)
    except AutoquantError as error:
        _print_error(console, error)
        return EXIT_MISTAKE
    except (KeyboardInterrupt, typer.Abort):
        console.print("interrupted; what was finished is kept, --resume continues a search")
        return EXIT_INTERRUPTED
    except Exception as error:
        shown = _usage_error(error)
        if shown is None:
            raise
        if shown:
            console.print(shown, style="red", soft_wrap=True)
        return EXIT_MISTAKE
    return code if isinstance(code, int) else 0


def run() -> NoReturn:
    """Run one command as a process, which ends with its exit code whatever comes meanwhile.

    All is written by then. What was interrupted ends at once, without what libraries do at the
    end: one more Ctrl-C would break into that.
    """
    try:
        code = main()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(code))
    sys.stdout.flush()
    sys.stderr.flush()
    if code == EXIT_INTERRUPTED:
        os._exit(code)
    sys.exit(code)


app.command()(init)


@app.command(cls=Dotted)
def search(
    job_file: JobFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the search in the job's output folder.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print sites, space and cost estimate, and evaluate nothing."
        ),
    ] = False,
    trust: Trust = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="The uniform plans and the program's best few alone: budget.effort=quick.",
        ),
    ] = False,
    wide: Wide = False,
) -> int:
    """Search a job: calibrate, rank, seed, search, and write the frontier.

    The result folder holds frontier.json, history.jsonl, sensitivity.csv, report.html and plans;
    `autoquant ui` shows the search in MLflow.
    """
    from autoquant.core.history import StopReason
    from autoquant.model.recipes import JobRecipe
    from autoquant.searching.search import run_search

    wanted = [*(overrides or []), *(["budget.effort=quick"] if quick else [])]
    job = load_with(job_file, wanted, trust=trust)
    progress = terminal()
    if dry_run:
        _print_dry_run(job)
        return 0
    result = run_search(job, JobRecipe(job), progress, resume=resume)
    from autoquant.results.choices import find_trainable
    from autoquant.results.summary import summarize, training_sentence

    console = stdout()
    print_candidates(console, result.table(), wide=wide)
    for sentence in summarize(result.findings):
        console.print(sentence)
    console.print(f"report: {result.folder / 'report.html'}", soft_wrap=True)
    if job.finetune is not None and result.stopped is not StopReason.INTERRUPTED:
        trained = find_trainable(result.findings)
        console.print(training_sentence(result.findings, trained), soft_wrap=True)
        if trained is None:
            console.print(f"next: {shlex.join(_exporting(result.folder))}", soft_wrap=True)
        else:
            plan = f"{result.folder}:{trained.number}"
            say_next("finetune", job_file, wanted, "--plan", plan)
    return EXIT_INTERRUPTED if result.stopped is StopReason.INTERRUPTED else 0


def _exporting(folder: Path) -> list[str]:
    return ["autoquant", "export", str(folder), "--output", str(folder / "exported")]


app.command(cls=Dotted)(sensitivity)
app.command(cls=Dotted)(tune)


app.command(cls=Dotted)(check)
app.command(cls=Dotted)(calibrate)
app.command(cls=Dotted)(compare)
app.command(cls=Dotted)(finetune)
app.command(cls=Dotted)(badcases)
app.command(cls=Dotted)(diagnose)


app.command(cls=Dotted)(backends)
app.command(cls=Dotted)(confirm)


@app.command()
def export(
    result: Annotated[Path, typer.Argument(help="The result folder of a search.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    number: Annotated[
        int | None, typer.Option(help="Candidate to export; default: the search's best.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Export the cheapest member within this accuracy drop.")
    ] = None,
    other_weights: Annotated[
        bool,
        typer.Option(
            "--other-weights", help="Take weights that are not those of the search, at its scales."
        ),
    ] = False,
    reduce_range: Annotated[
        bool,
        typer.Option(
            "--reduce-range",
            help="Let int8 leave out a bit: for x86 CPUs without VNNI.",
        ),
    ] = False,
    trust: Trust = False,
) -> int:
    """Export a candidate as a file that the engine's own API runs, its plan inside.

    torch writes TorchScript (.ts), OpenVINO its .xml and .bin, ONNX Runtime .onnx, LiteRT .tflite;
    without a suffix the file gets the right one.
    """
    from autoquant.cli.candidates import find_candidate, load_model_of
    from autoquant.results.wording import counts_text
    from autoquant.searching.export import export as export_candidate
    from autoquant.searching.load import load_result

    loaded = load_result(result)
    candidate = find_candidate(loaded, number, max_drop)
    model = load_model_of(result, trust=trust)
    path = export_candidate(
        candidate, model, output, other_weights=other_weights, reduce_range=reduce_range
    )
    console = plain(soft_wrap=True)
    console.print(f"{path}: candidate {candidate.number}, {counts_text(candidate.plan)}")
    recipe = candidate.recipe(path)
    if recipe is not None:
        timed = candidate.metadata
        console.print(
            f"to run it as it was timed (threads: {timed['threads']}, batch {timed['batch_size']}):"
        )
        console.print(recipe)
    return 0


@app.command()
def report(
    result: Annotated[Path, typer.Argument(help="The result folder of a search.")],
    wide: Wide = False,
) -> int:
    """Print a search's frontier again, and rewrite its report.html."""
    from autoquant.results import files
    from autoquant.results.manifest import seal
    from autoquant.results.report import render_report
    from autoquant.results.storage import write_text
    from autoquant.searching.load import load_result

    loaded = load_result(result)
    console = stdout()
    print_candidates(console, loaded.table(), wide=wide)
    write_text(result / files.REPORT, render_report(loaded.findings, result))
    if (result / files.MANIFEST).exists():
        seal(result)
    console.print(f"report: {result / 'report.html'}", soft_wrap=True)
    return 0


@app.command()
def ui(
    job_or_result: Annotated[
        Path, typer.Argument(help="A job file, or the result folder of a search.")
    ],
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on loopback; the next free one is taken.")
    ] = 5000,
) -> int:
    """Start the MLflow UI of a job's store, on loopback."""
    from autoquant.cli.candidates import job_of
    from autoquant.results.mlflow.ui import experiment_pages, start_ui

    job = job_of(job_or_result)
    running = start_ui(job.tracking_uri, port)
    try:
        pages = experiment_pages(running.url, job.tracking_uri, job.experiment)
        console = plain(soft_wrap=True)
        console.print(f"MLflow UI: {pages.runs} (Ctrl-C stops it)")
        for title, page in (("compared", pages.charts), ("last report", pages.report)):
            if page is not None:
                console.print(f"{title}: {page}")
        return running.wait()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        running.close()


def _print_error(console: Console, error: AutoquantError) -> None:
    """Print message and mend, unbroken: paths in them are there to be copied."""
    console.print(f"error: {masked(error.message)}", style="red", soft_wrap=True)
    if error.hint:
        console.print(f"mend: {masked(error.hint)}", soft_wrap=True)


def _usage_error(error: Exception) -> str | None:
    """A usage error in one line, nothing where the help was shown; None for anything else."""
    show = getattr(error, "format_message", None)
    if not callable(show):
        return None
    if not (said := show()):
        return ""
    lost = not getattr(error, "possibilities", True)
    return f"error: {said}; --help lists what there is" if lost else f"error: {said}"


def _print_dry_run(job: Job) -> None:
    from autoquant.cli.dry_run import print_dry_run

    print_dry_run(job, terminal(), stdout())
