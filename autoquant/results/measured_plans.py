"""Plans that were measured, kept on disk by digest, so that nothing is measured twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoquant.core.measurement import Candidate
from autoquant.core.os_errors import storage_errors
from autoquant.core.plan import Plan
from autoquant.results.history import History, read_history


class EvaluatedPlans:
    """Measured plans of one model on one set of data. Close it.

    Args:
        folder: Where they are kept; made if needed.
        fingerprint: Of all that decides what is measured; other fingerprints have other files.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        with storage_errors(folder, "write to"):
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"evaluated-{fingerprint}.jsonl"
        known = read_history(path)
        self._next = 1 + max((item.number for item in known), default=-1)
        self._by_digest = {item.digest: item for item in known}
        self._history = History(path)

    def __len__(self) -> int:
        return len(self._by_digest)

    def get(self, plan: Plan) -> Candidate | None:
        """What is known of a plan."""
        return self._by_digest.get(plan.digest)

    def keep(self, candidate: Candidate) -> Candidate:
        """Keep what was measured of a plan, under a number of its own; on disk on return.

        Raises:
            StorageError: The disk is full or fails.
        """
        known = self.get(candidate.plan)
        number = self._next if known is None else known.number
        self._next += known is None
        kept = replace(candidate, number=number)
        self._history.candidate(kept)
        self._by_digest[kept.digest] = kept
        return kept

    def close(self) -> None:
        """Close the history."""
        self._history.close()
