"""SIGTERM as Ctrl-C, and neither while results are written."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from autoquant.core.measurement import Candidate

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STUBBORN = 3
_ONE_S = 2.0
"""Signals that follow one another so fast mean the same."""


class Interrupts:
    """Raises `KeyboardInterrupt` at a signal; what is left is then written in peace.

    It is a `Recorder`, so that an interrupt that was lost in foreign code (a destructor, a
    callback) is raised again after the candidate.

    Attributes:
        count: Signals so far.
    """

    def __init__(
        self, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.count = 0
        self._note = note
        self._clock = clock
        self._is_held = False
        self._raised_at = -_ONE_S

    def hold(self) -> None:
        """Raise no more: what was found is being written."""
        self._is_held = True

    def candidate(self, candidate: Candidate) -> None:  # noqa: ARG002
        """Raise again what was lost."""
        if self.count and not self._is_held:
            raise KeyboardInterrupt

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal; only the third in a row breaks into the writing."""
        self.count += 1
        is_one = self._clock() - self._raised_at < _ONE_S
        if self.count < _STUBBORN and (self._is_held or is_one):
            self._note("writing what was found; a moment")
            return
        self._raised_at = self._clock()
        raise KeyboardInterrupt


@contextmanager
def taken(note: Callable[[str], None]) -> Iterator[Interrupts]:
    """Within, signals go to what is given; in another thread than the main one none do."""
    interrupts = Interrupts(note)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    known = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        signal.signal(number, interrupts.handle)
    try:
        yield interrupts
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)
