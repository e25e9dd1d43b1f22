"""How long calls are timed: a tenth of what a search takes where times are not what is tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from autoquant.backends import timing
from autoquant.searching.measuring import latency

WHOLE = timing.calls_within


def short(seconds: float, slice_s: float) -> int:
    """How many calls fill a tenth of a time slice."""
    return WHOLE(seconds, slice_s / 10)


def bundle_by(calls_within: Callable[[float, float], int]) -> None:
    """Bundle the calls of a timing by a function from now on."""
    timing.calls_within = latency.calls_within = calls_within


@contextmanager
def slices(calls_within: Callable[[float, float], int]) -> Iterator[None]:
    """Bundle them by a function for a while."""
    before = timing.calls_within
    bundle_by(calls_within)
    yield
    bundle_by(before)
