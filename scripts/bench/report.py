"""Print a benchmark's rows as a markdown table, and write them as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoquant.results.environment import describe_environment

Row = Mapping[str, str | float | int]


def show(name: str, rows: Sequence[Row], output: Path | None) -> None:
    """Print the table; with `output`, write rows and environment there."""
    if sys.dont_write_bytecode:
        print("PYTHONDONTWRITEBYTECODE is set: what is imported was compiled anew", file=sys.stderr)
    heads = list(rows[0])
    print(f"| {' | '.join(heads)} |")
    print(f"| {' | '.join('---' for _ in heads)} |")
    for row in rows:
        print(f"| {' | '.join(_cell(row[head]) for head in heads)} |")
    if output is not None:
        document = {"benchmark": name, "rows": list(rows), "environment": describe_environment()}
        output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _cell(value: str | float | int) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
