"""`sensitivity.csv`: the sensitivity table as a spreadsheet reads it."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from pathlib import Path
from typing import Any

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable
from autoquant.record.storage import read_text, well_formed, write_text

_ROW = tuple(item.name for item in fields(SensitivityRow))
_NUMBERS = _ROW[3:]
COLUMNS = (*_ROW, "method", "samples")


def write_sensitivity(path: Path, table: SensitivityTable) -> None:
    """Write one line for each row; method and samples are repeated on each.

    Raises:
        StorageError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table.rows:
        numbers = [repr(float(getattr(row, name))) for name in _NUMBERS]
        writer.writerow(
            [row.knob, row.scheme.value, row.part.value, *numbers, table.method, table.samples]
        )
    write_text(path, text.getvalue())


def read_sensitivity(path: Path) -> SensitivityTable:
    """Read back what `write_sensitivity` wrote, exactly.

    Raises:
        StorageError: The file is missing or damaged.
    """
    with well_formed(path):
        lines = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
        return SensitivityTable(
            rows=tuple(_row(line) for line in lines),
            method=lines[0]["method"] if lines else "",
            samples=int(lines[0]["samples"]) if lines else 0,
        )


def _row(line: dict[str, Any]) -> SensitivityRow:
    return SensitivityRow(
        knob=line["knob"],
        scheme=Scheme(line["scheme"]),
        part=Part(line["part"]),
        **{name: float(line[name]) for name in _NUMBERS},
    )
