"""`autoquant backends`: what runs here, and what of a plan runs where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from autoquant.cli.options import Overrides, load_with, stdout, terminal

if TYPE_CHECKING:
    from autoquant.job import Job

_LEGEND = (
    "native: a real kernel runs, and its time is measured. emulated: exact numerics in float, "
    "never timed. What is in neither column cannot run. int16 has weights of 8 bits, int16_weight "
    "activations of 8 bits."
)


def backends(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Option("--name", help="Show one backend only (openvino).")
    ] = None,
    job_file: Annotated[
        Path | None, typer.Option("--job", help="With --plan: the job whose model it is of.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="PLAN",
            help="List what of this plan each backend cannot run, site by site: a plan.json, a "
            "result folder (its best) or FOLDER:NUMBER.",
        ),
    ] = None,
    overrides: Overrides = None,
) -> int:
    """Print what runs here: backend x op x scheme -> native, emulated or unsupported."""
    if (plan is None) != (job_file is None):
        raise typer.BadParameter("--plan and --job belong together")
    console = stdout()
    if plan is not None and job_file is not None:
        _print_plan(load_with(job_file, overrides, context.args), plan, console)
        return 0
    from autoquant.backends.targets import load_target
    from autoquant.cli.support_table import support_tables

    if name is not None:
        load_target(name)  # refuses an unknown name, and says what to install
    for table in support_tables(name):
        console.print(table)
    console.print(_LEGEND, style="dim")
    return 0


def _print_plan(job: Job, text: str, console: Console) -> None:
    """Print, for each backend, the sites where it cannot run a plan."""
    from autoquant.cli.support_table import plan_table
    from autoquant.model.recipes import load_unscored
    from autoquant.searching.pair import read_plan
    from autoquant.searching.plan_support import plan_support

    progress = terminal()
    with progress.stage("loading the model", None):
        subject = load_unscored(job)
    found = plan_support(
        read_plan(text), subject.model, subject.example, leaf_modules=subject.leaf_modules
    )
    console.print(plan_table(found))
