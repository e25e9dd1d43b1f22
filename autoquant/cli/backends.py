"""`autoquant backends`: what runs here, what of a plan runs where, and the tables of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoquant.cli.options import Overrides, load_with, stdout, table_of, terminal
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.distribution import install_command

if TYPE_CHECKING:
    from autoquant.backends.protocol import Target
    from autoquant.job import Job
    from autoquant.searching.plan_support import Unsupported

_STYLES = {Support.NATIVE: "green", Support.EMULATED: "yellow"}
_LEGEND = (
    "native: a real kernel runs, and its time is measured. emulated: exact numerics in float, "
    "never timed. What is in neither column cannot run. int16 has weights of 8 bits, int16_weight "
    "activations of 8 bits."
)


def backends(
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
        _print_plan(load_with(job_file, overrides), plan, console)
        return 0
    from autoquant.backends.targets import load_target

    if name is not None:
        load_target(name)  # refuses an unknown name, and says what to install
    for table in _support_tables(name):
        console.print(table)
    console.print(_LEGEND, style="dim")
    return 0


def _print_plan(job: Job, text: str, console: Console) -> None:
    """Print, for each backend, the sites where it cannot run a plan."""
    from autoquant.model.recipes import load_unscored
    from autoquant.searching.pair import read_plan
    from autoquant.searching.plan_support import plan_support

    progress = terminal()
    with progress.stage("loading the model", None):
        subject = load_unscored(job)
    found = plan_support(
        read_plan(text), subject.model, subject.example, leaf_modules=subject.leaf_modules
    )
    console.print(_plan_table(found))


def _support_tables(name: str | None) -> Iterator[Table | str]:
    """One table for each engine or configuration that is here, one line for what is missing.

    Of one backend, or of all.
    """
    from autoquant.backends.targets import load_target

    for key, row in find_rows().items():
        if name is not None and key != name:
            continue
        if row.missing:
            yield f"{key}: {row.summary}; not installed: {install_command(row.extra)}"
            continue
        target = load_target(key)
        for title, settings in target.variants().items():
            yield _support_table(title, {kind: _row(target, settings, kind) for kind in OpKind})


def _row(target: Target, settings: BuildSettings, kind: OpKind) -> dict[Scheme, Support]:
    return {scheme: target.kind_support(settings, kind, scheme) for scheme in Scheme}


def _support_table(title: str, rows: Mapping[OpKind, Mapping[Scheme, Support]]) -> Table:
    """A row for all kinds of ops that run the same schemes; what none runs is named below."""
    alike: dict[tuple[tuple[Scheme, ...], ...], list[OpKind]] = {}
    for kind, row in rows.items():
        runs = (Support.NATIVE, Support.EMULATED)
        found = tuple(tuple(item for item in Scheme if row[item] is how) for how in runs)
        alike.setdefault(found, []).append(kind)
    known = {scheme for found in alike for schemes in found for scheme in schemes}
    lacks = [scheme.title for scheme in Scheme if scheme not in known]
    table = Table(
        title=title,
        title_justify="left",
        caption=f"no op runs {', '.join(lacks)}" if lacks else None,
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("op", ratio=1)
    table.add_column("native", ratio=1, style=_STYLES[Support.NATIVE])
    table.add_column("emulated", ratio=1, style=_STYLES[Support.EMULATED])
    for (native, emulated), kinds in alike.items():
        table.add_row(", ".join(kind.value for kind in kinds), _titles(native), _titles(emulated))
    return table


def _titles(schemes: Iterable[Scheme]) -> str:
    return ", ".join(scheme.value for scheme in schemes) or "-"


def _plan_table(found: Mapping[str, tuple[Unsupported, ...]]) -> Table:
    """What of a plan each backend cannot run, site by site."""
    heads = ("backend", "site", "op", "planned", "runs there")
    table = table_of(heads, title="what of the plan cannot run")
    for title, sites in found.items():
        if not sites:
            table.add_row(title, "", "", Text("runs all of it", "green"), "")
        for index, item in enumerate(sites):
            instead = ", ".join(scheme.value for scheme in item.instead)
            table.add_row(
                "" if index else title, item.site, item.kind.value, item.scheme.value, instead
            )
    return table
