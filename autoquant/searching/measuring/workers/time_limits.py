"""How long a task may take before it is taken for stuck."""

from __future__ import annotations

from collections.abc import Callable

from autoquant.core.evaluation import Phase

_FIRST_S = 3600.0
_LEAST_S = 300.0
_TIMES = 20.0


class TimeLimits:
    """The time limit of each phase: given, or from what such tasks took so far.

    Without a given one it is twenty times the longest, and at least five minutes: slow plans are
    no stuck ones. The first task of a phase, of which nothing is known, has an hour.

    Args:
        given_s: Seconds, whatever the phase; None: from what tasks took.
        clock: Seconds, monotonic.
    """

    def __init__(self, given_s: float | None, clock: Callable[[], float]) -> None:
        self._given_s = given_s
        self._longest_s: dict[Phase, float] = {}
        self.clock = clock

    def learn(self, phase: Phase, seconds: float) -> None:
        """Take in how long a task took that ended by itself."""
        self._longest_s[phase] = max(seconds, self._longest_s.get(phase, 0.0))

    def limit_s(self, phase: Phase) -> float:
        """How long a task may take."""
        if self._given_s is not None:
            return self._given_s
        if phase not in self._longest_s:
            return _FIRST_S
        return max(_LEAST_S, _TIMES * self._longest_s[phase])

    def reason(self, phase: Phase) -> str:
        """Why a task was stopped."""
        word = f"its {phase.value} took longer than {self.limit_s(phase):g} s"
        if self._given_s is not None:
            return f"{word} (execution.timeout); it was stopped"
        return f"{word}, far longer than others; it was stopped (see execution.timeout)"
