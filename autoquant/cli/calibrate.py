"""`autoquant calibrate`: observers and amounts of calibration data, compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from autoquant.cli.options import (
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
from autoquant.core.ranges import ObserverName

if TYPE_CHECKING:
    from autoquant.core.findings.calibrations import CalibrationTable


def calibrate(
    job_file: JobFile,
    plan: PlanText = "int8",
    overrides: Overrides = None,
    observers: Annotated[
        list[ObserverName] | None,
        typer.Option("--observer", help="Compare this one. May be repeated; default: all."),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(min=1, help="Samples of a calibration step; default: for about 128 steps."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Evaluation samples to measure each row on.")
    ] = 512,
    plot: PlotFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> int:
    """Compare observers and amounts of calibration data on one plan.

    Builds the plan with the ranges that each observer finds in the first 10, 20, 40... steps of
    the calibration data, and in all of them, and measures the output SQNR and the metric against
    the float model. Says which observer is best, and from where on more data does not pay.

    autoquant calibrate experiments/digits.yaml

    autoquant calibrate experiments/digits.yaml --plan out/digits --observer minmax --observer mse

    Then put it into the job: `calibration: {observer: mse}`.
    """
    from autoquant.debugging.calibrate import compare_calibrations
    from autoquant.searching.pair import find_plan, prepare_job

    job = load_with(job_file, overrides)
    progress = terminal()
    prepared = prepare_job(job, progress, plan)
    table = compare_calibrations(
        prepared,
        find_plan(plan, prepared, progress),
        progress,
        observers=tuple(dict.fromkeys(observers or ObserverName)),
        step=step,
        samples=samples,
    )
    console = stdout()
    if as_json:
        print_json(table)
    else:
        console.print(calibration_table(table))
        for sentence in conclusions(table):
            console.print(sentence)
        words = ["--set", f"calibration.observer={table.best.observer.value}"]
        say_next("search", job_file, overrides, *words)
    if plot is not None:
        from autoquant.results.plots.calibration import calibration_figure

        keep_picture(plot, calibration_figure(table), progress)
    return 0


def calibration_table(table: CalibrationTable) -> Table:
    """One row for each observer: SQNR by amount of data, and the metric with all of it."""
    from autoquant.results.wording import drop_text, kinds_of, kinds_text, score_unit

    everything = [row.measurements for row in table.rows]
    unit = score_unit(everything, table.metric)
    kinds = kinds_text(kinds_of(everything, "sqnr_db"))
    amounts = [f"{row.steps} ({row.samples})" for row in table.rows_of(table.observers[0])]
    ends = [f"metric, {unit.value_unit}", f"drop, {unit.drop_unit}"]
    numbers = [*amounts, "± all", "enough", *ends]
    title = f"SQNR by calibration steps (samples), dB, {kinds}"
    found = table_of(["observer", *numbers], right=numbers, title=title)
    for observer in table.observers:
        rows = table.rows_of(observer)
        last = rows[-1].measurements
        best = observer is table.best.observer
        found.add_row(
            observer.value,
            *(f"{row.sqnr_db:.2f}" for row in rows),
            f"{last['sqnr_db'].stderr or 0.0:.2f}",
            str(table.enough(observer).steps),
            f"{last['accuracy'].value * unit.factor:.{unit.digits}f}",
            drop_text(last["accuracy_drop"], unit),
            style="bold" if best else "",
        )
    return found


def conclusions(table: CalibrationTable) -> Iterator[str]:
    """What the table says, in sentences."""
    from autoquant.core.findings.calibrations import SETTLED_DB

    plan = ", ".join(f"{count} {scheme}" for scheme, count in table.plan.items())
    yield f"plan: {plan}; {table.evaluated} evaluation samples."
    best = table.best
    near = [
        item.value
        for item in table.observers
        if item is not best.observer
        and best.sqnr_db - table.rows_of(item)[-1].sqnr_db <= SETTLED_DB
    ]
    as_good = f"; within {SETTLED_DB} dB: {', '.join(near)}" if near else ""
    yield f"most SQNR with all data: {best.observer.value}, {best.sqnr_db:.2f} dB{as_good}."
    enough = table.enough(best.observer)
    if enough.steps < best.steps:
        yield (
            f"more data stops paying at {enough.steps} steps ({enough.samples} samples): no more "
            f"of it gains over {SETTLED_DB} dB."
        )
    else:
        yield "its SQNR still moves with the last doubling: more data may pay."
    if best.chosen:
        mixed = ", ".join(f"{name} at {count}" for name, count in best.chosen.items())
        yield f"mix took {mixed} sites."
