"""How long calls are timed: a tenth of what a search takes where times are not what is tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from autoquant.backends import timing
from autoquant.searching.measuring import latency

WHOLE = timing.calls_within


def short(seconds: float, slice_s: float) -> int:
    """How many calls fill a tenth of a time slice."""
    return WHOLE(seconds, slice_s / 10)


@contextmanager
def slices(calls_within: Callable[[float, float], int]) -> Iterator[None]:
    """Bundle calls by a function, for a while."""
    with (
        mock.patch.object(timing, "calls_within", calls_within),
        mock.patch.object(latency, "calls_within", calls_within),
    ):
        yield
