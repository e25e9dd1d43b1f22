"""Layers as text: one place for the terminal and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoquant.core.findings.layers import LayerRow, Moments
from autoquant.core.measurement import SQNR_CEILING_DB

Cell = Callable[[LayerRow], str]


def _decibels(value: float) -> str:
    return "exact" if value >= SQNR_CEILING_DB else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _moments(values: Moments) -> str:
    return f"{values.low:.3g} / {values.high:.3g} / {values.mean:.3g} / {values.variance:.3g}"


SHORT: Mapping[str, Cell] = {
    "op": lambda row: row.label,
    "type": lambda row: row.quantized_type,
    "dtype": lambda row: row.format.dtype,
    "scale": lambda row: _number(row.format.scale),
    "SQNR, dB": lambda row: _decibels(row.error.sqnr_db),
    "cosine": lambda row: f"{row.error.cosine:.5f}",
    "MSE": lambda row: _number(row.error.mse),
    "KL": lambda row: _number(row.error.kl),
    "max error": lambda row: _number(row.error.max_absolute),
    "in scales": lambda row: _number(row.error.max_steps),
}
"""Columns of a terminal; under n-shadows the scheme comes second."""

FULL: Mapping[str, Cell] = {
    "op": lambda row: row.label if row.tensor in ("", "weight") else f"{row.label}: {row.tensor}",
    "scheme": lambda row: row.scheme.value if row.scheme else "",
    "float type": lambda row: row.float_type,
    "quantized type": lambda row: row.quantized_type,
    "shape": lambda row: " x ".join(map(str, row.shape)),
    "dtype": lambda row: row.format.dtype,
    "scale": lambda row: (
        _number(row.format.scale)
        + (f" (largest of {row.format.scale_count})" if row.format.scale_count > 1 else "")
    ),
    "SQNR, dB": lambda row: _decibels(row.error.sqnr_db),
    "cosine": lambda row: f"{row.error.cosine:.6f}",
    "MSE": lambda row: _number(row.error.mse),
    "L1": lambda row: _number(row.error.l1),
    "KL": lambda row: _number(row.error.kl),
    "max absolute": lambda row: _number(row.error.max_absolute),
    "max relative": lambda row: _number(row.error.max_relative),
    "in scales": lambda row: _number(row.error.max_steps),
    "float min / max / mean / variance": lambda row: _moments(row.expected),
    "quantized min / max / mean / variance": lambda row: _moments(row.found),
    "rounding alone, dB (estimated)": lambda row: ", ".join(
        f"{name} {value:.0f}" for name, value in row.sqnr_estimates.items()
    ),
}
"""Columns of the report: everything that a row holds."""


def with_own(columns: Mapping[str, Cell], own: str | None) -> Mapping[str, Cell]:
    """Columns with that of the user's function, by its name; None: there is none."""
    return columns if own is None else {**columns, own: lambda row: _number(row.own)}


def cells(rows: Sequence[LayerRow], columns: Mapping[str, Cell]) -> list[list[str]]:
    """The text of each row."""
    return [[text(row) for text in columns.values()] for row in rows]


def said(row: LayerRow) -> str:
    """A row's reading as one sentence; empty where it needs none."""
    if row.reading is None:
        return ""
    reading = row.reading
    return f"{reading.cause.value}: {reading.evidence}; {reading.advice}"
