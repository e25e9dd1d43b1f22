"""Candidates as a data frame."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from autoquant.core.measurement import Candidate
from autoquant.core.quantities import QUANTITIES

MEASUREMENTS = tuple(QUANTITIES)
"""Names of the measurements, in the order of columns; others follow by name."""


def candidates_frame(candidates: Iterable[Candidate]) -> pd.DataFrame:
    """Give one row for each candidate.

    Columns: `number`, `digest`, `origin`, `failure`, `stopped`; then for each measurement its name,
    `<name>_stderr` and `<name>_kind`, missing where a candidate has none. Where something was
    timed, `clock` and `busy` say how, and whether the machine was too busy for its speedup.
    """
    listed = tuple(candidates)
    present = {name for item in listed for name in item.measurements}
    names = [name for name in _all_names() if name in present]
    names += sorted(present - set(names))
    columns = ["number", "digest", "origin", "failure", "stopped"]
    columns += [name + suffix for name in names for suffix in ("", "_stderr", "_kind")]
    if any("speedup" in item.measurements for item in listed):
        columns += ["clock", "busy"]
    frame: pd.DataFrame = pd.DataFrame([_frame_row(item) for item in listed], columns=columns)
    return frame


def _frame_row(candidate: Candidate) -> dict[str, object]:
    row: dict[str, object] = {
        "number": candidate.number,
        "digest": candidate.digest,
        "origin": candidate.origin,
        "failure": candidate.failure.reason if candidate.failure else None,
        "stopped": candidate.stopped,
    }
    for name, item in candidate.measurements.items():
        row |= {name: item.value, f"{name}_stderr": item.stderr, f"{name}_kind": item.kind.value}
    speedup = candidate.measurements.get("speedup")
    if speedup is not None:
        clock = None if speedup.clock is None else speedup.clock.value
        row |= {"clock": clock, "busy": speedup.busy}
    return row


def _all_names() -> tuple[str, ...]:
    return (*MEASUREMENTS, *(f"heldout_{name}" for name in MEASUREMENTS))
