"""Which clock a call is timed by: CPU time where it holds, so that other processes do not count."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoquant.backends.timing import Clock
from autoquant.core.measurement import TimedBy

_PROBES = 4
_LONG_S = 0.3
"""Of calls that take longer, fewer are looked at."""
_PROBE_S = 1e-3
_MOST_CALLS = 1000
_HOLDS = 0.9
"""A clock holds where it tells at least this share of the time that a call takes undisturbed."""
_AT_ONCE = 1.1
"""A process that computes for more than this share of the time does so on several cores."""
_ELSEWHERE = 1.5
"""CPU time of the process over the thread's, from which on the thread may be waiting in a loop."""
_SCHEDULER = Path("/proc/thread-self/schedstat")


def seconds_queued() -> float:
    """Seconds that this thread was ready to run and had no core; 0 where the system does not say.

    The second number of Linux's schedstat (Documentation/scheduler/sched-stats.rst).
    """
    try:
        return 1e-9 * float(_SCHEDULER.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks of one thread, each in seconds.

    Attributes:
        wall: Of the world.
        thread: CPU time of the calling thread.
        process: CPU time of all threads of this process.
        queued: How long the calling thread had to wait for a core.
    """

    wall: Clock = time.perf_counter
    thread: Clock = time.thread_time
    process: Clock = time.process_time
    queued: Clock = seconds_queued

    def by(self, which: TimedBy) -> Clock:
        """The clock of a name."""
        return {
            TimedBy.THREAD: self.thread,
            TimedBy.PROCESS: self.process,
            TimedBy.WALL: self.wall,
        }[which]


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found out about one call.

    Attributes:
        by: The clock that tells its time.
        seconds: What it takes by that clock, as far as a few calls say.
    """

    by: TimedBy
    seconds: float


@dataclass(frozen=True, slots=True)
class _Probe:
    """One call by all clocks; `wall` without what the thread waited for a core."""

    wall: float
    thread: float
    process: float

    def seconds(self, by: TimedBy) -> float:
        return {
            TimedBy.THREAD: self.thread,
            TimedBy.PROCESS: self.process,
            TimedBy.WALL: self.wall,
        }[by]


def probe(call: Callable[[], object], threads: int, clocks: Clocks) -> Probed:
    """Warm a call up, and find out which clock tells what it takes on a quiet machine.

    The calling thread's CPU time does where the thread never sleeps in a call, nor waits in a loop
    while others of its process compute; else the process's CPU time, where one thread computes at a
    time; else nothing but wall time is left, as with more than one thread. Each is held against the
    wall time without what the thread waited for a core, and the best of a few calls decides, so
    that a busy machine gives the same answer as a quiet one.

    Args:
        call: Computes once.
        threads: How many may compute.
        clocks: What to read.
    """
    started = clocks.wall()
    call()
    first = clocks.wall() - started
    count = min(max(1, math.ceil(_PROBE_S / max(first, 1e-9))), _MOST_CALLS)
    probes: list[_Probe] = []
    while len(probes) < (_PROBES if first < _LONG_S else _PROBES // 2):
        probes.append(_look(call, count, clocks))
        if threads == 1 and _thread_holds(probes[-1]):
            return Probed(TimedBy.THREAD, probes[-1].thread)
    alone = threads == 1 and any(map(_process_holds, probes))
    by = TimedBy.PROCESS if alone else TimedBy.WALL
    return Probed(by, min(item.seconds(by) for item in probes))


def clock_of(call: Callable[[], object], threads: int, clocks: Clocks | None = None) -> Clock:
    """The clock that tells what a call takes, for timing its parts."""
    clocks = clocks or Clocks()
    return clocks.by(probe(call, threads, clocks).by)


def shared_clock(probed: tuple[Probed, ...]) -> TimedBy:
    """The clock that holds for all of some calls."""
    for by in (TimedBy.WALL, TimedBy.PROCESS):
        if any(item.by is by for item in probed):
            return by
    return TimedBy.THREAD


def _look(call: Callable[[], object], count: int, clocks: Clocks) -> _Probe:
    queued = clocks.queued()
    wall, process, thread = clocks.wall(), clocks.process(), clocks.thread()
    for _ in range(count):
        call()
    thread, process, wall = (
        clocks.thread() - thread,
        clocks.process() - process,
        clocks.wall() - wall,
    )
    queued = clocks.queued() - queued
    own = max(wall - queued, thread)
    return _Probe(own / count, thread / count, process / count)


def _thread_holds(found: _Probe) -> bool:
    return found.thread >= _HOLDS * found.wall and found.process <= _ELSEWHERE * found.thread


def _process_holds(found: _Probe) -> bool:
    return _HOLDS * found.wall <= found.process <= _AT_ONCE * found.wall
