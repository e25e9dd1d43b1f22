"""Short forms of lists and ranges in sentences."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 4


def few(names: Sequence[object]) -> str:
    """The first names of a list that may be long."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(str(name) for name in names[:_SHOWN]) + more


def span(low: float, high: float) -> str:
    """A range as it is read."""
    return f"[{low:.4g}, {high:.4g}]"
