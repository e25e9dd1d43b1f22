"""`sensitivity.csv`: the sensitivity table as a spreadsheet reads it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Method, Part, SensitivityRow, SensitivityTable
from autoquant.results.storage import read_text, well_formed, write_text

_OPTIONAL = ("cosine", "mse", "l1", "kl")
_NUMBERS = ("sqnr_db", *_OPTIONAL, "noise", "noise_stderr")
_TABLE = ("samples", "procedure", "digest", "around", "around_noise")
_DROP = "metric_drop"
COLUMNS = ("knob", "scheme", "part", *_NUMBERS, "method", *_TABLE, _DROP)


def write_sensitivity(path: Path, table: SensitivityTable) -> None:
    """Write one line for each row; what holds for the whole table is repeated on each."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    around = table.around or ""
    whole = (table.samples, table.method, table.digest, around, repr(float(table.around_noise)))
    for row in table.rows:
        numbers = [_write_number(getattr(row, name)) for name in _NUMBERS]
        names = (row.knob, row.scheme.value, row.part.value)
        drop = _write_number(row.metric_drop)
        writer.writerow([*names, *numbers, row.method.value, *whole, drop])
    write_text(path, text.getvalue())


def _write_number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def read_sensitivity(path: Path) -> SensitivityTable:
    """Read back what `write_sensitivity` wrote, exactly.

    Files of earlier versions, whose rows were all exact, have no column `procedure`.

    Raises:
        StorageError: The file is missing or damaged.
    """
    with well_formed(path):
        lines = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
        first = lines[0] if lines else {}
        return SensitivityTable(
            rows=tuple(_row(line) for line in lines),
            method=first.get("procedure", first.get("method", "")),
            samples=int(first.get("samples", 0)),
            digest=first.get("digest", ""),
            around=first.get("around") or None,
            around_noise=float(first.get("around_noise", 0.0)),
        )


def _row(line: Mapping[str, str]) -> SensitivityRow:
    return SensitivityRow(
        knob=line["knob"],
        scheme=Scheme(line["scheme"]),
        part=Part(line["part"]),
        sqnr_db=float(line["sqnr_db"]),
        **{name: float(line[name]) if line[name] else None for name in _OPTIONAL},
        noise=float(line["noise"]),
        noise_stderr=float(line["noise_stderr"]),
        method=Method(line["method"]) if "procedure" in line else Method.EXACT,
        metric_drop=float(line[_DROP]) if line.get(_DROP) else None,
    )
