"""Recorders without a store behind them: none, and several as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoquant.core.history import Recorder
from autoquant.core.measurement import Candidate
from autoquant.results.findings import Findings


@dataclass(frozen=True, slots=True, eq=False)
class Winner:
    """The chosen candidate, ready to be run elsewhere.

    Attributes:
        files: The engine's.
        recipe: Gives the line of Python that makes `run` of its file at a place.
        example: Inputs that it takes.
    """

    files: tuple[Path, ...]
    recipe: Callable[[Path], str]
    example: tuple[np.ndarray, ...]


class Tracker:
    """Keeps candidates as they finish, and what the search found at its end.

    By itself it keeps nothing, for jobs with tracking disabled.
    """

    def candidate(self, candidate: Candidate) -> None:
        """Keep a candidate. The same number again replaces what was kept before."""

    def frontier(self, findings: Findings) -> None:
        """Keep the frontier as it stands while the search goes on."""

    def finish(
        self,
        findings: Findings,
        *,
        artifacts: Sequence[Path] = (),
        models: Mapping[int, Sequence[Path]] | None = None,
        winner: Winner | None = None,
    ) -> tuple[str, ...]:
        """Keep the findings; gives sentences on what could not be kept."""
        del findings, artifacts, models, winner
        return ()

    def stop(self, reason: str) -> None:
        """Say that the search ended early; it may be resumed."""


class JointRecorder:
    """Hands each candidate to several recorders, in order: the result folder refuses for all."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = tuple(recorders)

    def candidate(self, candidate: Candidate) -> None:
        """Hand a candidate on."""
        for recorder in self._recorders:
            recorder.candidate(candidate)
