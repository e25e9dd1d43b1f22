"""The tables of `autoquant sensitivity`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityTable
from autoquant.core.space import SearchSpace


def ranking_tables(table: SensitivityTable, space: SearchSpace, top: int) -> Iterator[Table]:
    """One ranking for each scheme, most sensitive knob first.

    Args:
        table: What was measured.
        space: For how many sites a knob holds.
        top: How many knobs to list.
    """
    rows = {(row.knob, row.scheme, row.part): row for row in table.rows}
    for scheme in space.schemes:
        ranking = table.ranking(scheme)
        if not ranking or scheme is Scheme.FP32:
            continue
        shown = Table(
            title=f"{scheme.value}: SQNR in dB with one knob alone in {scheme.value} "
            f"(emulated, {table.samples} samples)",
            title_justify="left",
        )
        for head in ("knob", "sites", "both", "weights", "activations", "cosine"):
            shown.add_column(head, justify="left" if head == "knob" else "right")
        for row in ranking[:top]:
            parts = [rows.get((row.knob, scheme, part)) for part in Part]
            shown.add_row(
                row.knob,
                str(len(space.by_name[row.knob].sites)),
                *(f"{item.sqnr_db:.1f}" if item else "" for item in parts),
                f"{row.cosine:.6f}",
            )
        if len(ranking) > top:
            shown.caption = f"and {len(ranking) - top} less sensitive ones; --top lists more"
        yield shown
