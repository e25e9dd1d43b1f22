"""What plans ran, as words."""

from __future__ import annotations

from autoquant.core.readback import ReadBack


def words(executed: ReadBack) -> dict[str, str]:
    """By site, what it ran: `int8 native`."""
    return {site: str(ran) for site, ran in executed.items()}
