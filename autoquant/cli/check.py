"""`autoquant check`: the command and its tables."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoquant.cli.options import (
    PIPE_WIDTH,
    JobFile,
    Overrides,
    PlanText,
    load_with,
    plain,
    print_json,
    say_next,
    stdout,
    table_of,
    terminal,
)
from autoquant.core.glance import few

if TYPE_CHECKING:
    from autoquant.core.findings.concerns import Concern
    from autoquant.core.findings.structure import CheckReport

EXIT_ATTENTION = 1


def check(
    job_file: JobFile,
    overrides: Overrides = None,
    plan: PlanText = "int8",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the report here: as text, or as HTML (FILE.html)."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole report as JSON, for scripts.")
    ] = False,
) -> int:
    """Check whether a job's model and settings are fit for quantization.

    Looks for ops that could be fused and are not, ops that no scheme reaches,
    modules that are never called or must be split, outputs that cannot be
    compared, suspicious settings, and what was configured without effect.
    Prints how every op and weight really runs, read back from the converted
    model. Needs the model and its calibration data; 100 samples are used.

    Exit code: 0 nothing needs attention, 1 something does, 2 a mistake.

    autoquant check experiments/digits.yaml

    autoquant check experiments/digits.yaml --plan out/digits --json
    """
    from autoquant.debugging.check import check_job

    job = load_with(job_file, overrides)
    report = check_job(job, plan, terminal())
    if output is not None:
        _write(report, output)
    if as_json:
        print_json(report)
    else:
        print_report(report, stdout())
        if output is not None:
            stdout().print(f"report: {output}", soft_wrap=True)
        if report.ops:  # the engine takes the plan
            say_next("badcases", job_file, overrides, "--plan", plan)
    return EXIT_ATTENTION if report.needs_attention else 0


def _write(report: CheckReport, path: Path) -> None:
    """Keep what is printed, as text or as a page of HTML."""
    from autoquant.results.storage import write_text

    console = plain(file=StringIO(), record=True, width=PIPE_WIDTH)
    print_report(report, console)
    is_page = path.suffix.lower() in (".html", ".htm")
    write_text(path, console.export_html() if is_page else console.export_text())


def print_report(report: CheckReport, console: Console) -> None:
    """Print what `check` found, as tables."""
    console.print(f"{report.configuration} on torch/{report.engine}")
    for words in (report.reach, report.classes):
        if words:
            console.print(words)
    for table in _tables(report):
        console.print(table)
    for concern in report.concerns:
        for line in _lines(concern):
            console.print(line, soft_wrap=True)
    console.print(_summary(report))


def _tables(report: CheckReport) -> Iterator[Table]:
    if report.ops:
        yield _op_table(report)
    if report.weights:
        yield _weight_table(report)
    if any(row.count != 1 for row in report.modules):
        yield _call_table(report)
    yield _output_table(report)


def _op_table(report: CheckReport) -> Table:
    table = _table(
        f"ops, in execution order (types read back; ranges from {report.samples} samples)",
        ("op", "kind", "configured", "runs", "input", "output", "axis", "observer"),
    )
    for row in report.ops:
        table.add_row(
            row.name,
            row.kind,
            _marked(row.configured, took_effect=row.took_effect),
            row.runs,
            ", ".join(row.inputs),
            row.output or "fused away",
            "" if not row.observer else "per tensor" if row.axis is None else str(row.axis),
            row.observer,
        )
    return table


def _weight_table(report: CheckReport) -> Table:
    table = _table("weights", ("site", "configured", "stored", "axis", "scales", "observer"))
    for row in report.weights:
        one_scale = "per tensor" if row.scale_count or row.observer else ""
        table.add_row(
            row.site,
            _marked(row.configured, took_effect=row.took_effect),
            row.stored,
            one_scale if row.axis is None else str(row.axis),
            str(row.scale_count) if row.scale_count else "",
            row.observer,
        )
    return table


def _call_table(report: CheckReport) -> Table:
    table = _table(
        "modules that one forward pass does not call exactly once",
        ("module", "class", "calls", "bits lost", "distance", "verdict"),
    )
    for row in report.modules:
        if row.count != 1:
            table.add_row(
                row.path,
                row.kind,
                str(row.count),
                "" if row.bits_lost is None else f"{row.bits_lost:.2f}",
                "" if row.distance is None else f"{row.distance:.2f}",
                row.verdict.value,
            )
    return table


def _output_table(report: CheckReport) -> Table:
    table = _table("outputs", ("output", "type", "shape", "compared by", "handed out as"))
    for row in report.outputs:
        shape = "x".join(map(str, row.shape[1:]))
        compared = row.compared or "cannot be compared"
        given = f"{row.given}, unrounded" if row.given == "float32" else row.given
        table.add_row(row.path or "output", row.dtype, shape, compared, given)
    return table


def _table(title: str, heads: tuple[str, ...]) -> Table:
    return table_of(heads, title=title, overflow="fold")


def _marked(text: str, *, took_effect: bool) -> Text:
    """What was configured, marked where it did not take effect."""
    return Text(text) if took_effect else Text(f"{text} (no effect)", style="red")


def _lines(concern: Concern) -> Iterator[Text]:
    style = "bold red" if concern.severity.value == "attention" else "bold"
    shown = few(concern.where)
    yield Text.assemble((concern.severity.value, style), f" [{concern.topic.value}] {shown}")
    yield Text(f"  what: {concern.what}")
    yield Text(f"  why:  {concern.why}")
    yield Text(f"  mend: {concern.mend}")


def _summary(report: CheckReport) -> str:
    count = sum(item.severity.value == "attention" for item in report.concerns)
    if not count:
        return "nothing needs attention"
    return f"{count} thing{'s' if count > 1 else ''} need{'' if count > 1 else 's'} attention"
