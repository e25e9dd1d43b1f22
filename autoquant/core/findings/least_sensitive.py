"""The tail of a sensitivity table: what its least sensitive ops still do to the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import SensitivityRow, SensitivityTable

NEAR_ZERO = 1e-2
"""A sane tail adds less than this share of the outputs' power: an SQNR above 20 dB."""

_LONGEST = 4
_SHARE = 0.25
_FEWEST_KNOBS = 4


@dataclass(frozen=True, slots=True)
class Tail:
    """The least sensitive knobs of one scheme.

    Where these still move the outputs, no op can be harmless: any small change is made large on
    its way, as top-k, argmax, thresholds and non-maximum suppression do.

    Attributes:
        scheme: What they took.
        knobs: Their names.
        noise: Median of their noise-to-signal ratios.
    """

    scheme: Scheme
    knobs: tuple[str, ...]
    noise: float

    @property
    def is_near_zero(self) -> bool:
        """Whether the table is sane."""
        return self.noise <= NEAR_ZERO


def tail_of(table: SensitivityTable, scheme: Scheme) -> tuple[str, ...]:
    """Name the least sensitive quarter of the knobs, at most four; none of fewer than four."""
    ranking = table.ranking(scheme)
    if len(ranking) < _FEWEST_KNOBS:
        return ()
    count = min(_LONGEST, max(1, round(len(ranking) * _SHARE)))
    return tuple(row.knob for row in ranking[-count:])


def read_tail(rows: Sequence[SensitivityRow]) -> Tail | None:
    """Give the tail that some rows of one scheme make; None without rows."""
    if not rows:
        return None
    noise = median(row.noise for row in rows)
    return Tail(rows[0].scheme, tuple(row.knob for row in rows), noise)
