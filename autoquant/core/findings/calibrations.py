"""Observers and amounts of calibration data compared: values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoquant.core.json_values import fields_json
from autoquant.core.measurement import Measurements
from autoquant.core.ranges import ObserverName

SETTLED_DB = 0.5
"""Two SQNRs that differ by less than this count as equal: as much comes and goes with the luck of
rounding when a range moves a little."""


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """One plan, its ranges found by one observer from the first so many steps.

    Attributes:
        observer: What found the ranges.
        steps: Calibration steps.
        samples: Samples in these steps.
        measurements: `sqnr_db`, `accuracy`, `accuracy_drop`, against the float model.
        chosen: Of `mix`: how many sites took which observer; empty for the others.
    """

    observer: ObserverName
    steps: int
    samples: int
    measurements: Measurements
    chosen: Mapping[str, int]

    @property
    def sqnr_db(self) -> float:
        """Output signal over quantization noise, in decibels."""
        return self.measurements["sqnr_db"].value


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """The same plan under several observers and amounts of calibration data.

    Attributes:
        rows: By observer, then by steps; each observer has the same amounts.
        plan: How many sites have which scheme.
        evaluated: Evaluation samples behind each row.
        metric: What the user's metric is called, with its unit and direction.
    """

    rows: tuple[CalibrationRow, ...]
    plan: Mapping[str, int]
    evaluated: int
    metric: str = "accuracy"

    @property
    def observers(self) -> tuple[ObserverName, ...]:
        """In the order of the rows."""
        return tuple(dict.fromkeys(row.observer for row in self.rows))

    def rows_of(self, observer: ObserverName) -> tuple[CalibrationRow, ...]:
        """Rows of one observer, least data first."""
        return tuple(row for row in self.rows if row.observer is observer)

    @property
    def best(self) -> CalibrationRow:
        """The row with all data and the most SQNR; of equal ones the first."""
        return max((self.rows_of(item)[-1] for item in self.observers), key=lambda row: row.sqnr_db)

    def enough(self, observer: ObserverName) -> CalibrationRow:
        """The least data that no more data beats by more than `SETTLED_DB`."""
        rows = self.rows_of(observer)
        most = max(row.sqnr_db for row in rows)
        return next(row for row in rows if most - row.sqnr_db <= SETTLED_DB)

    def to_json(self) -> dict[str, Any]:
        """Give the table as JSON values."""
        enough = {item: self.enough(item) for item in self.observers}
        return {
            **fields_json(self),
            "best": self.best.observer.value,
            "enough": {
                item.value: {"steps": found.steps, "samples": found.samples}
                for item, found in enough.items()
            },
        }
