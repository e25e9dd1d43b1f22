"""Python code that takes too long within this process is broken off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from autoquant.errors import ExecutionError

_FLOAT_TIMES = 10.0
"""How much longer than a phase of a candidate what is done with the float model may take."""

_AGAIN_S = 1.0
"""What foreign code swallowed (a destructor, a callback) is raised again after so long."""


class Overdue(BaseException):
    """What runs took too long; no `except Exception` on its way catches it."""


@contextmanager
def overdue_after(seconds: float | None) -> Iterator[None]:
    """Within, what takes longer raises `Overdue`; a kernel that it waits for ends first.

    It takes the system's alarm (`setitimer`), which is of the main thread alone. Where there is
    none, or somebody else has taken it, nothing is broken off. None: any time is allowed.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not in_main or not hasattr(signal, "setitimer"):
        yield
        return
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return
    is_running = True

    def ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if is_running:
            raise Overdue

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        try:
            yield
        finally:
            is_running = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def float_in_time(timeout: float | None, what: str = "measuring the float model") -> Iterator[None]:
    """Within, something is done with the float model, for at most ten time-outs of a job.

    Raises:
        ExecutionError: It took longer.
    """
    if timeout is None:
        yield
        return
    try:
        with overdue_after(_FLOAT_TIMES * timeout):
            yield
    except Overdue as error:
        raise ExecutionError(
            f"{what} took longer than {_FLOAT_TIMES * timeout:g} s, {_FLOAT_TIMES:g} times "
            "execution.timeout; it was stopped",
            hint="see whether the metric waits for something, or set a longer execution.timeout",
        ) from error
