from __future__ import annotations

import os
import signal

import pytest

from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.searching.interrupts import Interrupts, taken

CANDIDATE = Candidate(0, Plan.of({"a": Scheme.INT8}), "seed")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_sigterm_is_an_interrupt_within_and_what_it_was_after() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with taken(print), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_the_third_signal_breaks_into_the_writing() -> None:
    notes: list[str] = []
    interrupts = Interrupts(notes.append)
    interrupts.hold()
    for _ in range(2):
        interrupts.handle(signal.SIGINT, None)
    assert notes == ["writing what was found; a moment"] * 2
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(signal.SIGINT, None)


def test_signals_that_follow_at_once_are_one() -> None:
    clock, notes = Clock(), []
    interrupts = Interrupts(notes.append, clock)
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(signal.SIGINT, None)
    clock.now = 0.5
    interrupts.handle(signal.SIGTERM, None)
    assert len(notes) == 1


def test_an_interrupt_that_was_lost_is_raised_after_the_candidate() -> None:
    interrupts = Interrupts(print)
    interrupts.candidate(CANDIDATE)
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        interrupts.candidate(CANDIDATE)
    interrupts.hold()
    interrupts.candidate(CANDIDATE)
