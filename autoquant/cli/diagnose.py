"""`autoquant diagnose`: why a plan is wrong, and what to do, in plain words."""

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
from autoquant.results.wording import counts_text

if TYPE_CHECKING:
    from autoquant.core.findings.diagnosis import Diagnosis


def diagnose(
    job_file: JobFile,
    plan: PlanText = "int8",
    overrides: Overrides = None,
    data: DataName = "evaluation",
    write_plan: Annotated[
        Path | None,
        typer.Option(help="Write the plan with the blamed ops raised here, where that mends it."),
    ] = None,
    plot: PlotFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> int:
    """Tell why a plan is wrong, with evidence and one next step.

    Most samples bad: an op or a range is to blame. Few samples bad: outliers, and which. A kernel
    that differs from the reference computation of the same plan: the engine. Each cause is proven
    by mending it alone, in reference numerics, and measuring what that gains.

    autoquant diagnose experiments/digits.yaml --plan int8

    autoquant diagnose JOB --plan int8 --write-plan mended.json

    autoquant badcases JOB --plan mended.json    # does it hold?
    """
    from autoquant.debugging.diagnose import diagnose_pair
    from autoquant.searching.pair import build_pair, prepare_job

    job = load_with(job_file, overrides)
    progress = terminal()
    prepared = prepare_job(job, progress, plan)
    pair = build_pair(prepared, plan, progress)
    diagnosis = diagnose_pair(pair, data, progress)
    if write_plan is not None and diagnosis.plan is not None:
        diagnosis.plan.save(write_plan)
    if plot is not None:
        from autoquant.results.plots.diagnosis import diagnosis_figure

        keep_picture(plot, diagnosis_figure(diagnosis), progress)
    if as_json:
        print_json({"data": data, **diagnosis.to_json()})
        return 0
    console = stdout()
    for line in diagnosis_lines(diagnosis):
        console.print(line, soft_wrap=True)
    console.print(variation_table(diagnosis))
    if write_plan is not None:
        written = "no plan to write" if diagnosis.plan is None else f"plan: {write_plan}"
        console.print(written, soft_wrap=True)
        if diagnosis.plan is not None:
            words = ["--plan", str(write_plan), "--data", data]
            say_next("badcases", job_file, overrides, *words)
    return 0


def diagnosis_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The answer, its evidence, the next step, and what else was seen."""
    yield _verdict(diagnosis)
    for number, finding in enumerate(diagnosis.findings, 1):
        where = ", ".join(finding.sites[:4]) + (" ..." if len(finding.sites) > 4 else "")
        yield ""
        yield f"{number}. {finding.cause.value}: {where}"
        yield f"   evidence: {finding.evidence}."
        yield (
            f"   proof: with this mended alone the outputs go from {finding.before_db:.1f} to "
            f"{finding.after_db:.1f} dB."
        )
    if diagnosis.next_step is not None:
        yield ""
        yield f"next step: {diagnosis.next_step}"
    if diagnosis.plan is not None and diagnosis.plan_db is not None:
        counts = counts_text(diagnosis.plan)
        yield f"as a plan: {counts}; {diagnosis.plan_db:.1f} dB as it runs here (--write-plan FILE)"
        yield f"for a search: space.rules: {diagnosis.rules}"
    for note in diagnosis.notes:
        yield ""
        yield f"note: {note}"


def variation_table(diagnosis: Diagnosis) -> Table:
    """Whose input range differs most from sample to sample."""
    numbers = ("range / median sample's", "bits lost")
    table = table_of(
        ("op", "input", *numbers),
        right=numbers,
        title="inputs whose range varies most from sample to sample",
        caption="from 3 bits on a static scale is suspect",
    )
    for item in diagnosis.variations:
        table.add_row(item.site, item.tensor, f"{item.ratio:.2f}", f"{item.lost_bits:.1f}")
    return table


def _verdict(diagnosis: Diagnosis) -> str:
    from autoquant.core.findings.diagnosis import Pattern

    numbers = (
        f"SQNR {diagnosis.sqnr_db:.1f} dB over {diagnosis.samples} samples, "
        f"{diagnosis.median_sqnr_db:.1f} dB in the median"
    )
    limit = f"{diagnosis.limit_db:.1f} dB"
    return {
        Pattern.HEALTHY: f"healthy: the error is what rounding makes ({numbers}; limit {limit}).",
        Pattern.INSENSITIVE: f"data-insensitive error: most samples are bad ({numbers}; below "
        f"{limit} is bad), so an op or a range is to blame, not the data.",
        Pattern.SENSITIVE: "data-sensitive error: single samples are bad, the median is well "
        f"({numbers}); the worst: {', '.join(f'#{index}' for index in diagnosis.bad[:8])}.",
        Pattern.IMPLEMENTATION: "implementation error: an engine's kernel computes something else "
        f"than the plan says ({numbers}).",
    }[diagnosis.pattern]
