"""A search does not wait for its tracker, and the tracker misses nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from autoquant.core.measurement import Candidate
from autoquant.core.precision import Scheme
from autoquant.errors import TrackingError
from autoquant.results.findings import Findings
from autoquant.results.mlflow.background import BackgroundTracker
from autoquant.results.recorders import Tracker, Winner
from tests.unit.results.synthetic import make_candidate, make_findings


def candidate(number: int, drop: float = 0.001) -> Candidate:
    return make_candidate(number, {"conv": Scheme.INT8}, drop=drop)


class Slow(Tracker):
    """A tracker that waits until it is let go."""

    def __init__(self) -> None:
        self.kept: list[Candidate] = []
        self.began = threading.Event()
        self.go = threading.Event()
        self.stopped: str | None = None

    def candidate(self, candidate: Candidate) -> None:
        self.began.set()
        assert self.go.wait(10)
        if candidate.number == 13:
            raise TrackingError("no store")
        self.kept.append(candidate)

    def finish(
        self,
        findings: Findings,
        *,
        artifacts: Sequence[Path] = (),
        models: Mapping[int, Sequence[Path]] | None = None,
        winner: Winner | None = None,
    ) -> tuple[str, ...]:
        assert (models, winner) == (None, None)
        return (f"{len(self.kept)} of {len(findings.candidates)}", *map(str, artifacts))

    def stop(self, reason: str) -> None:
        self.stopped = reason


def test_candidates_arrive_in_order_before_the_end() -> None:
    slow = Slow()
    tracker = BackgroundTracker(slow)
    for number in range(5):
        tracker.candidate(candidate(number))
    assert slow.kept == []
    slow.go.set()
    findings = make_findings()
    assert tracker.finish(findings, artifacts=[Path("a")]) == (
        f"5 of {len(findings.candidates)}",
        "a",
    )
    assert slow.kept == [candidate(number) for number in range(5)]


def test_of_a_candidate_that_waits_only_the_latest_record_arrives() -> None:
    slow = Slow()
    tracker = BackgroundTracker(slow)
    tracker.candidate(candidate(0))
    assert slow.began.wait(10)
    for drop in (0.1, 0.2, 0.3):
        tracker.candidate(candidate(1, drop))
    slow.go.set()
    tracker.stop("interrupted")
    assert slow.kept == [candidate(0), candidate(1, 0.3)]
    assert slow.stopped == "interrupted"


def test_what_the_tracker_raises_reaches_the_search() -> None:
    slow = Slow()
    slow.go.set()
    tracker = BackgroundTracker(slow)
    tracker.candidate(candidate(13))
    with pytest.raises(TrackingError, match="no store"):
        tracker.finish(make_findings())
    with pytest.raises(TrackingError, match="no store"):
        tracker.candidate(candidate(14))
