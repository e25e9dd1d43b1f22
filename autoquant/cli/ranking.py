"""The tables of `autoquant sensitivity`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Method, Part, SensitivityTable
from autoquant.core.space import SearchSpace


def ranking_tables(table: SensitivityTable, space: SearchSpace, top: int) -> Iterator[Table]:
    """One ranking for each scheme, most sensitive knob first.

    Args:
        table: What was measured.
        space: For how many sites a knob holds.
        top: How many knobs to list.
    """
    rows = table.by_key
    for scheme in space.schemes:
        ranking = table.ranking(scheme)
        if not ranking or scheme is Scheme.FP32:
            continue
        shown = Table(
            title=f"{scheme.value}: SQNR in dB with one knob alone in {scheme.value} "
            f"({_how(table)})",
            title_justify="left",
        )
        for head in ("knob", "sites", "both", "weights", "activations", "cosine", "method"):
            shown.add_column(head, justify="left" if head in ("knob", "method") else "right")
        for row in ranking[:top]:
            parts = [rows.get((row.knob, scheme, part)) for part in Part]
            shown.add_row(
                row.knob,
                str(len(space.by_name[row.knob].sites)),
                *(f"{item.sqnr_db:.1f}" if item else "" for item in parts),
                "-" if row.cosine is None else f"{row.cosine:.6f}",
                row.method.value,
            )
        if len(ranking) > top:
            shown.caption = f"and {len(ranking) - top} less sensitive ones; --top lists more"
        yield shown


def _how(table: SensitivityTable) -> str:
    """Kind of the numbers, and what stands behind them."""
    is_exact = {row.method is Method.EXACT for row in table.rows}
    kinds = {
        frozenset({True}): "emulated",
        frozenset({False}): "estimated",
        frozenset({True, False}): "exact rows emulated, the others estimated",
    }
    samples = f"{table.samples} samples" if table.samples else "no data"
    return f"{kinds[frozenset(is_exact)]}, {samples}"
