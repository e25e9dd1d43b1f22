"""What a search tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from autoquant.core.measurement import Candidate

Advance = Callable[[int], None]


@runtime_checkable
class Progress(Protocol):
    """Shows progress."""

    def stage(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Begin a stage of `total` steps (None: unknown); leave the context to end it."""

    def note(self, text: str) -> None:
        """Show one line that the user should know."""

    def candidate(self, candidate: Candidate) -> None:
        """Show that a candidate was measured."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a search stands after a round.

    Attributes:
        rows: What stands out, by name: `best within the limit`, `fastest`, `most exact`.
        done: Candidates so far.
        most: Candidates at most; None: not known yet.
        left_s: Seconds that the search may still take; None: any.
        metric: What the user's metric is called, with its unit and direction.
    """

    rows: tuple[tuple[str, Candidate], ...]
    done: int
    most: int | None
    left_s: float | None = None
    metric: str = "accuracy"


@runtime_checkable
class ShowsStanding(Protocol):
    """A `Progress` that also shows where a search stands; `Progress` does not ask for it."""

    def standing(self, standing: Standing) -> None:
        """Show where the search stands."""


class Silent:
    """Shows nothing."""

    def stage(self, title: str, total: int | None) -> AbstractContextManager[Advance]:  # noqa: ARG002
        """Do nothing."""
        return nullcontext(lambda steps: None)

    def note(self, text: str) -> None:
        """Do nothing."""

    def candidate(self, candidate: Candidate) -> None:
        """Do nothing."""
