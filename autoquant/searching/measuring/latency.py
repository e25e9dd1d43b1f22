"""Latency: a candidate and the float model in turn, reported as a ratio with its spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from autoquant.backends.timing import Clock, bundle_size, seconds_of
from autoquant.core.measurement import Kind, Measurement

_SHORTEST_S = 0.01
_ENOUGH = 0.05
_MOST_ROUNDS = 3
_FEWEST = 5
_LONG_S = 10.0
_MAD_TO_SIGMA = 1.4826
_MEDIAN_EFFICIENCY = 1.2533


def measure_latency(
    candidate: Callable[[], object],
    baseline: Callable[[], object],
    *,
    pairs: int,
    clock: Clock,
) -> dict[str, Measurement]:
    """Time a candidate against the float model, interleaved.

    The two run in turn and swap their order from pair to pair, so that a drift of the machine's
    speed meets both alike. `speedup` is the median over pairs of float time over candidate time;
    `latency_ms` the median candidate time. Their standard errors are those of a median:
    1.2533 * 1.4826 * MAD / sqrt(pairs). Calls shorter than 10 ms are timed in bundles; of long
    calls, whose times are steady, no further pair begins after 10 seconds and five pairs.

    On a busy machine as many pairs are added, up to twice, until the speed-up's standard error is
    at most 5%: a time with a wide spread is as likely lucky as not, and would push others off a
    frontier.

    Args:
        candidate: Runs the candidate once.
        baseline: Runs the float model once.
        pairs: How many pairs to time, at first.
        clock: Seconds, monotonic.
    """
    functions = (candidate, baseline)
    calls = [_bundle(function, clock) for function in functions]
    taken: list[tuple[float, ...]] = []
    for _ in range(_MOST_ROUNDS):
        taken += _time_in_turn(functions, calls, pairs, clock)
        times = np.array(taken)
        speedup = _median(times[:, 1] / times[:, 0])
        if (speedup.stderr or 0.0) <= _ENOUGH * speedup.value:
            break
    return {
        "latency_ms": _median(times[:, 0]),
        "speedup": speedup,
        "baseline_latency_ms": _median(times[:, 1]),
    }


def measure_alone(function: Callable[[], object], *, times: int, clock: Clock) -> Measurement:
    """Time one call, in milliseconds, as `measure_latency` does; there is no rival to it."""
    calls = [_bundle(function, clock)]
    return _median(np.array(_time_in_turn((function,), calls, times, clock))[:, 0])


def _time_in_turn(
    functions: Sequence[Callable[[], object]],
    calls: Sequence[int],
    turns: int,
    clock: Clock,
) -> list[tuple[float, ...]]:
    """Milliseconds of one call of each, in turn; the order swaps from turn to turn."""
    found: list[tuple[float, ...]] = []
    begun = clock()
    for turn in range(turns):
        if turn >= _FEWEST and clock() - begun > _LONG_S:
            break
        times = [0.0] * len(functions)
        for which in range(len(functions))[:: -1 if turn % 2 else 1]:
            times[which] = 1e3 * seconds_of(functions[which], calls[which], clock)
        found.append(tuple(times))
    return found


def _bundle(function: Callable[[], object], clock: Clock) -> int:
    return bundle_size(lambda: seconds_of(function, 1, clock), _SHORTEST_S)


def _median(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Measurement:
    median = float(np.median(values))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(values - median)))
    stderr = _MEDIAN_EFFICIENCY * spread / math.sqrt(len(values))
    return Measurement(median, Kind.MEASURED, stderr=stderr, samples=len(values))
