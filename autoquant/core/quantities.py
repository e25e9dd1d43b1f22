"""What is measured: the one table of names, units and directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measurement, as every file, table, axis and store names it.

    Attributes:
        name: Key of the measurement, in files too.
        title: What it is called where people read it.
        unit: What its values are in; empty for the user's own metric, whose unit only they know.
        higher_is_better: Its direction.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool = False

    def titled(self, unit: str | None = None) -> str:
        """Title with a unit, by default its own.

        >>> Quantity("energy", "energy", "mJ").titled()
        'energy, mJ'
        """
        shown = self.unit if unit is None else unit
        return f"{self.title}, {shown}" if shown else self.title


LOWER = "lower is better"
"""What the title of a metric of the user's says where it is a loss."""

ACCURACY = Quantity("accuracy", "metric", higher_is_better=True)
ACCURACY_DROP = Quantity("accuracy_drop", "drop")
SQNR = Quantity("sqnr_db", "SQNR", "dB", higher_is_better=True)
KL = Quantity("kl", "KL divergence", "nats")
LATENCY = Quantity("latency_ms", "latency", "ms")
SPEEDUP = Quantity("speedup", "speedup", higher_is_better=True)
FLOAT_SPEEDUP = Quantity("float_speedup", "over float", higher_is_better=True)
SINGLE_SPEEDUP = Quantity("single_speedup", "speedup, one sample", higher_is_better=True)
SINGLE_FLOAT_SPEEDUP = Quantity(
    "single_float_speedup", "over float, one sample", higher_is_better=True
)
SINGLE_LATENCY = Quantity("single_latency_ms", "latency, one sample", "ms")
FP32_LATENCY = Quantity("fp32_latency_ms", "fp32 then", "ms")
WALL = Quantity("wall_ms", "wall time", "ms")
SIZE = Quantity("size_bytes", "size")
BOPS = Quantity("bops_ratio", "bit operations")
INT16_SHARE = Quantity("int16_share", "ops on 16-bit integers")

QUANTITIES: Mapping[str, Quantity] = {
    item.name: item
    for item in (
        ACCURACY,
        ACCURACY_DROP,
        SQNR,
        KL,
        LATENCY,
        SPEEDUP,
        FLOAT_SPEEDUP,
        FP32_LATENCY,
        WALL,
        SINGLE_SPEEDUP,
        SINGLE_FLOAT_SPEEDUP,
        SINGLE_LATENCY,
        SIZE,
        BOPS,
        INT16_SHARE,
    )
}
"""By name, in the order of columns."""
