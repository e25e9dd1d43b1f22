"""The clock that holds is found by looking at calls, on a busy machine as on a quiet one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from autoquant.core.measurement import TimedBy
from autoquant.searching.measuring.clocks import Clocks, Probed, probe, shared_clock


@dataclass
class Call:
    """What one call adds to each clock, in seconds."""

    wall: float
    thread: float
    process: float
    queued: float = 0.0
    count: int = 0

    def __call__(self) -> None:
        self.count += 1

    @property
    def clocks(self) -> Clocks:
        return Clocks(
            wall=lambda: self.count * self.wall,
            thread=lambda: self.count * self.thread,
            process=lambda: self.count * self.process,
            queued=lambda: self.count * self.queued,
        )


CASES = {
    "computes in the calling thread": (Call(0.02, 0.02, 0.02), TimedBy.THREAD),
    "the same on a busy machine": (Call(0.2, 0.02, 0.02, queued=0.18), TimedBy.THREAD),
    "computes in another thread": (Call(0.02, 0.001, 0.02), TimedBy.PROCESS),
    "the caller waits in a loop": (Call(0.02, 0.02, 0.04), TimedBy.WALL),
    "computes on two other threads": (Call(0.02, 0.001, 0.04), TimedBy.WALL),
    "computes elsewhere": (Call(0.02, 0.001, 0.001), TimedBy.WALL),
}


@pytest.mark.parametrize(("call", "clock"), CASES.values(), ids=CASES)
def test_the_clock_that_tells_what_a_call_takes(call: Call, clock: TimedBy) -> None:
    assert probe(call, 1, call.clocks).by is clock


def test_with_more_threads_wall_time_is_left() -> None:
    call = Call(0.02, 0.02, 0.02)
    assert probe(call, 2, call.clocks).by is TimedBy.WALL


def test_calls_that_are_compared_share_a_clock() -> None:
    probed = tuple(Probed(by, 0.01) for by in (TimedBy.THREAD, TimedBy.PROCESS))
    assert shared_clock(probed) is TimedBy.PROCESS
