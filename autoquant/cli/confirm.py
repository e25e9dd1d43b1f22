"""`autoquant confirm`: the plans of a search on another backend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoquant.cli.options import (
    Overrides,
    Trust,
    Wide,
    ask_for_trust,
    print_candidates,
    stdout,
    terminal,
)


def confirm(
    result: Annotated[Path, typer.Argument(help="The result folder of a search.")],
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            "-b",
            help="Where to build and measure: inductor, openvino, onnxruntime, litert..., or an "
            "engine of torch's.",
        ),
    ],
    numbers: Annotated[
        list[int] | None,
        typer.Option("--number", help="A candidate to confirm; default: the frontier. Repeatable."),
    ] = None,
    overrides: Overrides = None,
    wide: Wide = False,
    trust: Trust = False,
) -> int:
    """Build a search's frontier on another backend, and measure it there.

    Nothing is searched or calibrated again. For backends that are too slow to search on (inductor
    compiles each plan), and to see what plans are worth on a second target.
    """
    from autoquant.searching.other_backend import confirm as run

    found = run(
        result,
        backend,
        numbers=numbers or (),
        overrides=overrides or [],
        progress=terminal(),
        trust=ask_for_trust(result, trust),
    )
    console = stdout()
    console.print(f"{found.target}; speed-ups are over {found.rival}")
    print_candidates(console, found.table(), wide=wide)
    for sentence in found.substituted:
        console.print(sentence)
    for item in found.refused:
        reason = item.failure.reason if item.failure is not None else ""
        console.print(f"#{item.number} does not run: {reason}")
    return 0
