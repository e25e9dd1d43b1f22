"""SIGTERM as Ctrl-C, and neither while results are written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STUBBORN = 3


class Interrupts:
    """Raises `KeyboardInterrupt` at the first signal, once; what is left is then written in peace.

    Attributes:
        count: Signals so far.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.count = 0
        self._note = note
        self._is_held = False

    def hold(self) -> None:
        """Raise no more: what was found is being written."""
        self._is_held = True

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal; only the third in a row breaks into the writing."""
        self.count += 1
        if self._is_held and self.count < _STUBBORN:
            self._note("writing what was found; a moment")
            return
        self._is_held = True
        raise KeyboardInterrupt


@contextmanager
def taken(note: Callable[[str], None]) -> Iterator[Interrupts]:
    """Within, signals go to what is given; in another thread than the main one none do.

    Args:
        note: Told when a signal has to wait.
    """
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
