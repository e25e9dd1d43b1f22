"""What a search tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from autoquant.core.measurement import Candidate

Advance = Callable[[int], None]


class Progress(Protocol):
    """Shows progress."""

    def stage(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Begin a stage of `total` steps (None: unknown); leave the context to end it."""

    def note(self, text: str) -> None:
        """Show one line that the user should know."""

    def candidate(self, candidate: Candidate) -> None:
        """Show that a candidate was measured."""


class Silent:
    """Shows nothing."""

    def stage(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Do nothing."""
        return _nothing(title, total)

    def note(self, text: str) -> None:
        """Do nothing."""

    def candidate(self, candidate: Candidate) -> None:
        """Do nothing."""


@contextmanager
def _nothing(title: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG001
    yield lambda steps: None
