"""`autoquant sensitivity`: the command and its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

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
    table_of,
    terminal,
)
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Measure, Method, Part
from autoquant.errors import PlanError
from autoquant.results.wording import ScoreUnit, drop_text, kinds_of, kinds_text, score_unit

if TYPE_CHECKING:
    from autoquant.core.findings.sensitivity_report import SensitivityReport
    from autoquant.core.plan import Plan
    from autoquant.core.sensitivity import SensitivityTable
    from autoquant.job import Job


def sensitivity(
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
    from autoquant.debugging.indices import read_indices
    from autoquant.debugging.sensitivity import examine_sensitivity
    from autoquant.model.recipes import JobRecipe, load_subject

    job = load_with(job_file, overrides)
    measure = Measure.named(by)
    raising = None
    if ratio is not None or count is not None:
        raising = _raising(job, ratio, count, scheme, on, output)
    elif on is not None:
        raise PlanError("--on needs to know how many knobs to raise", hint="add --count 1")
    places: Sequence[int] | None = None if indices is None else read_indices(indices)
    progress = terminal()
    subject = load_subject(JobRecipe(job), progress)
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
        say_next(name, job_file, overrides, *words)
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
    from autoquant.results.sensitivity_text import sensitivity_sentences

    console = stdout()
    for table in _ranking_tables(report, top):
        console.print(table)
    note = _metric_note(report)
    for sentence in (*([note] if note else []), *sensitivity_sentences(report)):
        console.print(sentence, soft_wrap=True)
    if written is not None:
        plain().print(written, soft_wrap=True)


def _ranking_tables(report: SensitivityReport, top: int) -> Iterator[Table]:
    """One ranking for each scheme, most sensitive knob first."""
    table, space = report.table, report.space
    rows, unit = table.by_key, score_unit(report.metric.values(), report.metric_title)
    for scheme in space.schemes:
        ranking = table.ranking(scheme, report.by)
        if not ranking or scheme is Scheme.FP32:
            continue
        losses = ("both", "weights", "activations", "cosine", *_further(report.by))
        numbers = (*losses, f"metric drop, {unit.drop_unit}")
        shown = table_of(
            ("knob", "sites", "type", "dtype", *numbers, "method"),
            right=("sites", *numbers),
            title=f"{scheme.title}: SQNR in dB with one knob alone in {scheme.value} "
            f"({_how(table)}{_which(report)}{_by(report.by)})",
        )
        kinds = report.kinds
        for row in ranking[:top]:
            parts = [rows.get((row.knob, scheme, part)) for part in Part]
            shown.add_row(
                row.knob,
                str(len(space.by_name[row.knob].sites)),
                kinds.get(row.knob, ""),
                _dtype(scheme),
                *(f"{item.sqnr_db:.1f}" if item else "" for item in parts),
                "-" if row.cosine is None else f"{row.cosine:.6f}",
                *(_number(row.loss(report.by)) for _ in _further(report.by)),
                _drop(report, row.knob, scheme, unit),
                row.method.value,
            )
        if len(ranking) > top:
            shown.caption = f"and {len(ranking) - top} less sensitive ones; --top lists more"
        yield shown


def _dtype(scheme: Scheme) -> str:
    """What a scheme makes of the op: its activations' format, and its weights' where another."""
    activation, weight = scheme.activation.value, scheme.weight.value
    return activation if activation == weight else f"{activation}, weights {weight}"


def _further(by: Measure) -> tuple[str, ...]:
    """The column of the measure that ranks, where it has none yet."""
    heads = {Measure.MSE: ("MSE",), Measure.L1: ("L1",), Measure.KL: ("KL",)}
    return heads.get(by, ())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _by(by: Measure) -> str:
    return "" if by is Measure.SQNR else f"; ranked by {by.value}"


def _metric_note(report: SensitivityReport) -> str | None:
    """Which rows' metric was measured, how, and on how much; None where none was."""
    if not report.metric:
        return None
    drop = next(iter(report.metric.values()))["accuracy_drop"]
    kinds = kinds_text(kinds_of(report.metric.values(), "accuracy_drop"))
    return (
        f"metric drop: of the {len(report.metric)} noisiest rows over all schemes ({kinds}; "
        f"{drop.samples} samples, paired with fp32; ± is one standard error)."
    )


def _drop(report: SensitivityReport, knob: str, scheme: Scheme, unit: ScoreUnit) -> str:
    found = report.metric.get((knob, scheme))
    return "" if found is None else drop_text(found["accuracy_drop"], unit)


def _which(report: SensitivityReport) -> str:
    return "" if report.indices is None else ", chosen"


def _how(table: SensitivityTable) -> str:
    """Kind of the numbers, and what stands behind them."""
    if any(row.method is Method.ENGINE for row in table.rows):
        return f"measured on the engine, {table.samples} samples"
    is_exact = {row.method is Method.EXACT for row in table.rows}
    kinds = {
        frozenset({True}): "emulated",
        frozenset({False}): "estimated",
        frozenset({True, False}): "exact rows emulated, the others estimated",
    }
    samples = f"{table.samples} samples" if table.samples else "no data"
    return f"{kinds[frozenset(is_exact)]}, {samples}"
