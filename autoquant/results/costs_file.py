"""`costs.json`: what each op and each boundary costs on the target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind
from autoquant.core.precision import Scheme
from autoquant.results.storage import rebuild, write_document


def write_costs(path: Path, table: CostTable) -> None:
    """Write a cost table."""
    document = {
        "unit": table.unit,
        "kind": table.kind,
        "constant": table.constant,
        "ops": [
            {"site": site, "scheme": scheme, "cost": cost}
            for (site, scheme), cost in table.ops.items()
        ],
        "edges": [
            {
                "writer": writer,
                "reader": reader,
                "costs": [
                    {"from": before, "to": after, "cost": cost}
                    for (before, after), cost in pairs.items()
                ],
            }
            for (writer, reader), pairs in table.edges.items()
        ],
    }
    write_document(path, document)


def read_costs(path: Path) -> CostTable:
    """Read back what `write_costs` wrote, exactly.

    Raises:
        StorageError: The file is missing or damaged.
    """
    return rebuild(path, _table)


def _table(document: Mapping[str, Any]) -> CostTable:
    return CostTable(
        constant=float(document["constant"]),
        ops={
            (item["site"], Scheme(item["scheme"])): float(item["cost"]) for item in document["ops"]
        },
        edges={
            (item["writer"], item["reader"]): _pairs(item["costs"]) for item in document["edges"]
        },
        kind=Kind(document["kind"]),
        unit=str(document["unit"]),
    )


def _pairs(items: list[dict[str, Any]]) -> dict[tuple[Scheme, Scheme], float]:
    return {(Scheme(item["from"]), Scheme(item["to"])): float(item["cost"]) for item in items}
