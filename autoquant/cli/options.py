"""What the commands share: job file, overrides, and where they print."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, OverflowMethod
from rich.table import Table
from typer.core import TyperCommand

from autoquant.core.json_values import json_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autoquant.job import Job
    from autoquant.results.table import CandidateTable
    from autoquant.results.terminal import Terminal

JobFile = Annotated[Path, typer.Argument(help="The job file (YAML); see docs/job-file.md.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key of the job file, for instance budget.trials=16. May be repeated. "
        "--budget.trials 16 means the same.",
    ),
]
PlanText = Annotated[
    str,
    typer.Option(
        "--plan",
        metavar="PLAN",
        help="What to build: a scheme for all ops (int8), a plan.json, a result folder (its best), "
        "or FOLDER:NUMBER, one of its candidates.",
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data", metavar="SET", help="Which data of the job: evaluation, calibration or heldout."
    ),
]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", help="Write the picture here, as an HTML page.")
]
Wide = Annotated[
    bool, typer.Option("--wide", help="Print all columns, not only those that fit 80 characters.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Call the functions that a result folder's job names, whoever wrote it."
    ),
]
PIPE_WIDTH = 160


def load_with(job_file: Path, overrides: list[str] | None, *, trust: bool = False) -> Job:
    """Load a job with its overrides.

    That of a result folder is taken only from a user who wrote or trusts it.
    """
    from autoquant.job import load_job
    from autoquant.results import files
    from autoquant.results.trust import refuse_stranger

    folder = job_file.absolute().parent
    if (folder / files.FACTS).exists():
        refuse_stranger(folder, trust=ask_for_trust(folder, trust))
    return load_job(job_file, overrides or [])


def ask_for_trust(folder: Path, given: bool) -> bool:
    """Whether the functions that a folder's job names may be called; asks where somebody sits."""
    from autoquant.results.trust import is_own

    if given or is_own(folder) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return given
    text = f"{folder}/job.yaml was not written by you here; call the functions that it names?"
    return typer.confirm(text, err=True)


def terminal() -> Terminal:
    """Progress, on standard error."""
    from autoquant.results.terminal import to_stderr

    return to_stderr()


def stdout() -> Console:
    """Standard output, every text as it is; on a pipe wide enough for every table."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return plain(width=width)


def plain(**options: Any) -> Console:
    """A console that prints every text as it is, brackets and colons too."""
    return Console(emoji=False, markup=False, highlight=False, **options)


def table_of(
    heads: Iterable[str],
    *,
    right: Collection[str] = (),
    overflow: OverflowMethod = "ellipsis",
    **options: Any,
) -> Table:
    """A table of some columns, those of numbers on the right; title and caption on the left."""
    table = Table(title_justify="left", caption_justify="left", **options)
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", overflow=overflow)
    return table


def is_tunable(job: Job) -> bool:
    """Whether the space has what `tune` goes through."""
    from autoquant.core.precision import Scheme

    return {Scheme.INT8, Scheme.INT16} <= set(job.space.schemes)


def say_next(name: str, job_file: Path, overrides: Sequence[str] | None, *words: str) -> None:
    """Print the command to run next on the same job, with the overrides that were given.

    On one line, quoted as a shell takes it.
    """
    given = [part for item in overrides or [] for part in ("--set", item)]
    command = shlex.join(["autoquant", name, str(job_file), *given, *words])
    stdout().print(f"next: {command}", soft_wrap=True)


def print_candidates(console: Console, table: CandidateTable, *, wide: bool) -> None:
    """Print candidates: the columns that a choice needs, or all; on a pipe nothing is padded."""
    from autoquant.results.table import to_rich

    shown = to_rich(table if wide else table.narrow)
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    lines = captured.get().splitlines()
    console.file.write("".join(f"{line.rstrip()}\n" for line in lines))


def print_json(value: object) -> None:
    """Print a value as JSON, for programs."""
    typer.echo(json.dumps(json_of(value), indent=2))


def keep_picture(path: Path, figure: go.Figure, progress: Terminal) -> None:
    """Write a figure as an HTML page that needs no network, and say where."""
    from autoquant.results.storage import write_text

    write_text(path, figure.to_html(include_plotlyjs=True))
    progress.note(f"picture: {path}")


class Dotted(TyperCommand):
    """A command that reads `--budget.trials 16`, also with `=`, as `--set budget.trials=16`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what every command parses: unknown options are refused, with what is close."""
        return super().parse_args(ctx, list(_as_set(args)))


def _as_set(args: Sequence[str]) -> Iterator[str]:
    words = iter(args)
    for word in words:
        name, equals, _ = word.partition("=")
        if word == "--":
            yield from (word, *words)
        elif not name.startswith("--") or "." not in name:
            yield word
        elif equals:
            yield from ("--set", word[2:])
        elif (following := next(words, None)) is not None:
            yield from ("--set", f"{name[2:]}={following}")
        else:
            raise typer.BadParameter(f"{word} needs a value")
