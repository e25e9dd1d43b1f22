"""A tracker in the background: the search does not wait for a store."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoquant.core.measurement import Candidate
from autoquant.results.findings import Findings
from autoquant.results.recorders import Tracker, Winner


class BackgroundTracker(Tracker):
    """Hands candidates to another tracker, in a thread of its own and in their order.

    Of a candidate that is recorded again before its turn only the latest record is handed on.
    What a killed process did not hand on is handed on when the search is resumed, which records
    all that it knows.

    Args:
        tracker: Where they go; used by one thread at a time.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._waiting: dict[int, Candidate] = {}
        self._standing: Findings | None = None
        self._changed = threading.Condition()
        self._is_closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def candidate(self, candidate: Candidate) -> None:
        """Take a candidate and return at once.

        Raises:
            BaseException: What the tracker raised for an earlier candidate.
        """
        with self._changed:
            self._refuse_after_error()
            self._waiting[candidate.number] = candidate
            self._changed.notify()

    def frontier(self, findings: Findings) -> None:
        """Take the frontier as it stands and return at once; only the latest is handed on.

        Raises:
            BaseException: What the tracker raised for an earlier candidate.
        """
        with self._changed:
            self._refuse_after_error()
            self._standing = findings
            self._changed.notify()

    def finish(
        self,
        findings: Findings,
        *,
        artifacts: Sequence[Path] = (),
        models: Mapping[int, Sequence[Path]] | None = None,
        winner: Winner | None = None,
    ) -> tuple[str, ...]:
        """Wait until all candidates are handed on, then finish the tracker."""
        self._close()
        self._refuse_after_error()
        return self._tracker.finish(findings, artifacts=artifacts, models=models, winner=winner)

    def stop(self, reason: str) -> None:
        """Wait until all candidates are handed on, then stop the tracker."""
        self._close()
        self._tracker.stop(reason)

    def _close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _refuse_after_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (found := self._next()) is not None:
                if isinstance(found, Candidate):
                    self._tracker.candidate(found)
                else:
                    self._tracker.frontier(found)
        except BaseException as error:  # noqa: BLE001  # raised where the search can see it
            with self._changed:
                self._error = error
                self._waiting.clear()

    def _next(self) -> Candidate | Findings | None:
        """The candidate that waits longest, then the frontier; None when there are no more.

        A frontier that is overtaken by the end is dropped: `finish` has the last one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._standing or self._is_closing)
            if self._waiting:
                return self._waiting.pop(next(iter(self._waiting)))
            standing, self._standing = self._standing, None
            return None if self._is_closing else standing
