"""How long calls are timed: a tenth of what a search takes where times are not what is tested."""

from __future__ import annotations

from autoquant.backends import timing
from autoquant.backends.torch_cpu import profile
from autoquant.searching.measuring import latency

_WHOLE = timing.calls_within, profile._PAIRS, latency._MOST_ROUNDS


def time_briefly() -> None:
    """From now on, fill a tenth of a time slice, and take fewer of them."""
    timing.calls_within = latency.calls_within = _in_a_tenth
    profile._PAIRS = 3
    latency._MOST_ROUNDS = 1


def time_wholly() -> None:
    """From now on, time as long as a search does."""
    timing.calls_within, profile._PAIRS, latency._MOST_ROUNDS = _WHOLE
    latency.calls_within = timing.calls_within


def _in_a_tenth(seconds: float, slice_s: float) -> int:
    return _WHOLE[0](seconds, slice_s / 10)
