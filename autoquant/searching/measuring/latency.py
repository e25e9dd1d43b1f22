"""Latency: a call and its rival in turn, reported as a ratio with its spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from autoquant.backends.timing import calls_within
from autoquant.core.measurement import Kind, Measurement, TimedBy
from autoquant.searching.measuring.clocks import Clocks, probe, shared_clock

SITTING_ERROR = 0.025
"""Standard deviation of a speed-up between two sittings on a quiet machine, as a share of it.

Of ResNet-20 at batch 64, eager fp32 over OpenVINO in f32 and bf16, six sittings each: 2.9 and 2.3%.
"""

_SHORTEST_S = 0.01
_LONGEST_SLICE_S = 0.1
FEWEST_PAIRS = 6
_MORE = 4
_DECIDED = 0.01
_ENOUGH = 0.05
_MOST_ROUNDS = 3
_LONG_S = 10.0
FAR_SLOWER = 4.0
_PAIRS_OF_FAR_SLOWER = 2
_LOW = 0.2
"""Quantile of wall times: what is undisturbed is fast, what is disturbed slow."""
_RESAMPLES = 200
_CROWDED = 1.5
"""Wall time over CPU time from which on others had the cores. A call shorter than a time slice is
then not what it is alone: after each slice that others had, its tensors come from memory."""
CROWDED_ERROR = 0.1
"""What a speed-up is off by from a quiet sitting's where others had the cores, as a share of it.

Root mean square at batch 64 with ten busy processes on two cores: `scripts/bench/busy.py`. A core
whose sibling computes has other bottlenecks, which no clock leaves out.
"""
_DRIFT = 0.03
_DRIFT_ERRORS = 3.0
_MAD_TO_SIGMA = 1.4826
_MEDIAN_EFFICIENCY = 1.2533

Times = npt.NDArray[np.float64]
Decided = Callable[[Measurement], bool]
_Estimate = tuple[float, float]
"""A value and its standard error."""


def measure_latency(
    candidate: Callable[[], object],
    baseline: Callable[[], object],
    *,
    pairs: int,
    threads: int = 1,
    clocks: Clocks | None = None,
    fewest: int = FEWEST_PAIRS,
    decided: Decided | None = None,
) -> dict[str, Measurement]:
    """Time a candidate against a rival, interleaved.

    The two run in turn and swap their order from pair to pair, so that a drift of the machine's
    speed meets both alike; each time is that of a bundle of calls, so that both fill the same time
    slice, 10 ms at least. `speedup` is the median over pairs of the rival's time over the
    candidate's, with the standard error of a median: 1.2533 * 1.4826 * MAD / sqrt(pairs). By wall
    time both are low quantiles, with a bootstrapped error.

    As few pairs as are needed: from six on it ends when the error is below 1% and both halves of
    the sitting agree, or when `decided` says so; at `pairs` when the error is at most 5%, else at
    thrice as many. What is then still above, or has halves that disagree, is `busy`. Where others
    had the cores, the errors hold what that is known to change, and short calls are `busy`. Of a
    candidate whose call fills a slice, and takes four times as long, two pairs tell all that will
    be asked.

    Args:
        candidate: Runs the candidate once.
        baseline: Runs the rival once.
        pairs: How many pairs to time at most, where the machine is quiet.
        threads: How many threads compute.
        clocks: What to read.
        fewest: How many pairs to time at least.
        decided: Says of a speed-up, taken so far, that no more need be known of it.

    Returns:
        `latency_ms`, `speedup`, `baseline_latency_ms`, and the candidate's `wall_ms`. The errors
        are those of this sitting alone: see `with_sitting_error`.
    """
    clocks = clocks or Clocks()
    functions = (candidate, baseline)
    probed = tuple(probe(function, threads, clocks) for function in functions)
    by = shared_clock(probed)
    longest = max(item.seconds for item in probed)
    slice_s = min(max(longest, _SHORTEST_S), _LONGEST_SLICE_S)
    calls = [calls_within(item.seconds, slice_s) for item in probed]
    turns = _Turns(functions, calls, clocks, by)
    own, rival = (item.seconds for item in probed)
    if own > max(FAR_SLOWER * rival, _SHORTEST_S):
        pairs = min(pairs, _PAIRS_OF_FAR_SLOWER)
    fewest = min(pairs, fewest)
    turns.take(fewest)
    while not _is_enough(turns, fewest, pairs, decided):
        turns.take(min(_MORE, pairs - len(turns.times) % pairs))
    found = {
        "latency_ms": _summary(turns.times[:, 0], by),
        "speedup": _ratio(turns.times, by),
        "baseline_latency_ms": _summary(turns.times[:, 1], by),
        "wall_ms": _summary(turns.walls[:, 0], TimedBy.WALL),
    }
    if not turns.are_crowded:
        return found
    is_short = min(own, rival) < _SHORTEST_S
    return {
        name: replace(_off_by(item, CROWDED_ERROR), busy=item.busy or is_short)
        for name, item in found.items()
    }


def measure_alone(
    function: Callable[[], object], *, times: int, threads: int = 1, clocks: Clocks | None = None
) -> Measurement:
    """Time one call, in milliseconds, as `measure_latency` does; there is no rival to it."""
    clocks = clocks or Clocks()
    probed = probe(function, threads, clocks)
    turns = _Turns((function,), [calls_within(probed.seconds, _SHORTEST_S)], clocks, probed.by)
    turns.take(times)
    return _summary(turns.times[:, 0], probed.by)


def with_sitting_error(found: Measurement) -> Measurement:
    """Add what a sitting differs by from another, which no sitting shows by itself."""
    return _off_by(found, SITTING_ERROR)


def _off_by(found: Measurement, share: float) -> Measurement:
    """Add an error that is a share of the value."""
    return replace(found, stderr=math.hypot(found.stderr or 0.0, share * found.value))


class _Turns:
    """Calls in turn, by the clock that holds for all of them and by wall time."""

    def __init__(
        self,
        functions: Sequence[Callable[[], object]],
        calls: Sequence[int],
        clocks: Clocks,
        by: TimedBy,
    ) -> None:
        self._functions = functions
        self._calls = calls
        self.by = by
        self._clock, self._wall_clock = clocks.by(by), clocks.wall
        self._found: list[list[float]] = []
        self._walls: list[list[float]] = []
        self._begun = self._clock()

    @property
    def times(self) -> Times:
        """Milliseconds of one call; shape (turns, functions)."""
        return np.array(self._found)

    @property
    def walls(self) -> Times:
        """The same by wall time."""
        return np.array(self._walls)

    @property
    def are_crowded(self) -> bool:
        """Whether other processes had the core for long in between."""
        return bool(self.walls.sum() > _CROWDED * self.times.sum())

    @property
    def is_long(self) -> bool:
        """Whether it has taken so long that no further turn should begin."""
        return len(self._found) >= FEWEST_PAIRS and self._clock() - self._begun > _LONG_S

    def take(self, count: int) -> None:
        """Take some more turns; the order swaps from turn to turn."""
        for _ in range(count):
            if self.is_long:
                return
            order = range(len(self._functions))[:: -1 if len(self._found) % 2 else 1]
            times, walls = [0.0] * len(order), [0.0] * len(order)
            for which in order:
                times[which], walls[which] = self._time(which)
            self._found.append(times)
            self._walls.append(walls)

    def _time(self, which: int) -> tuple[float, float]:
        function, count = self._functions[which], self._calls[which]
        wall, own = self._wall_clock(), self._clock()
        for _ in range(count):
            function()
        own, wall = self._clock() - own, self._wall_clock() - wall
        return 1e3 * own / count, 1e3 * wall / count


def _is_enough(turns: _Turns, fewest: int, pairs: int, decided: Decided | None) -> bool:
    times = turns.times
    found = _ratio(times, turns.by)
    error = (found.stderr or 0.0) / found.value
    if turns.is_long or len(times) >= _MOST_ROUNDS * pairs:
        return True
    if len(times) >= pairs and error <= _ENOUGH:
        return True
    if len(times) < fewest:
        return False
    return (error <= _DECIDED or (decided is not None and decided(found))) and not found.busy


def _ratio(times: Times, by: TimedBy) -> Measurement:
    """The rival's time over the candidate's: by pairs, or of the low quantiles of both."""
    if by is not TimedBy.WALL:
        return _summary(times[:, 1] / times[:, 0], by)
    return _checked(times, by, lambda part: _low(part, lambda low: low[..., 1] / low[..., 0]))


def _summary(values: Times, by: TimedBy) -> Measurement:
    """A time, or a ratio of two: the median, by wall time a low quantile."""
    if by is not TimedBy.WALL:
        return _checked(values, by, _median)
    return _checked(values, by, lambda part: _low(part, lambda low: low))


def _median(values: Times) -> _Estimate:
    value = float(np.median(values))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(values - value)))
    return value, _MEDIAN_EFFICIENCY * spread / math.sqrt(len(values))


def _low(values: Times, of: Callable[[Times], Times]) -> _Estimate:
    """Something of the low quantiles over turns, its error by the bootstrap (Efron, 1979)."""
    picked = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    drawn = of(np.quantile(values[picked], _LOW, axis=1))
    return float(of(np.quantile(values, _LOW, axis=0))), float(np.std(drawn))


def _checked(values: Times, by: TimedBy, estimate: Callable[[Times], _Estimate]) -> Measurement:
    """A time that was held against itself: the two halves of its sitting."""
    value, stderr = estimate(values)
    busy = stderr > _ENOUGH * value
    half = len(values) // 2
    if half >= FEWEST_PAIRS // 2:
        (first, first_error), (second, second_error) = (
            estimate(part) for part in (values[:half], values[half:])
        )
        error = math.hypot(first_error / first, second_error / second)
        busy = busy or abs(math.log(second / first)) > _DRIFT_ERRORS * error + _DRIFT
    return Measurement(value, Kind.MEASURED, stderr, len(values), clock=by, busy=busy)
