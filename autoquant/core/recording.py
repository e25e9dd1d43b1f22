"""Who is told of each candidate, as it is found."""

from __future__ import annotations

from typing import Protocol

from autoquant.core.measurement import Candidate


class Recorder(Protocol):
    """Keeps candidates: in the result folder, in MLflow."""

    def candidate(self, candidate: Candidate) -> None:
        """Keep a candidate. The same number again replaces what was kept before."""
