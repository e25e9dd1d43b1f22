"""A progress that times the stages of a search."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from autoquant.core.measurement import Candidate
from autoquant.core.progress import Advance


class Stopwatch:
    """Keeps the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """Time a stage."""
        started = time.perf_counter()
        yield lambda steps: None
        self.seconds[title] = time.perf_counter() - started

    def note(self, text: str) -> None:
        """Show nothing."""

    def candidate(self, candidate: Candidate) -> None:
        """Show nothing."""
