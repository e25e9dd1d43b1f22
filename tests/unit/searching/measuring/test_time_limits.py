from __future__ import annotations

from autoquant.core.evaluation import Phase
from autoquant.searching.measuring.workers.time_limits import TimeLimits


def limits(given_s: float | None = None) -> TimeLimits:
    return TimeLimits(given_s, lambda: 0.0)


def test_slow_tasks_are_no_stuck_ones() -> None:
    found = limits()
    for seconds in (100.0, 900.0, 30.0):
        found.learn(Phase.QUALITY, seconds)
    assert found.limit_s(Phase.QUALITY) == 20 * 900.0


def test_short_tasks_have_five_minutes_and_the_first_an_hour() -> None:
    found = limits()
    assert found.limit_s(Phase.LATENCY) == 3600.0
    found.learn(Phase.LATENCY, 0.1)
    assert found.limit_s(Phase.LATENCY) == 300.0
    assert found.limit_s(Phase.HELDOUT) == 3600.0


def test_a_given_limit_stands_whatever_tasks_took() -> None:
    found = limits(7.0)
    found.learn(Phase.QUALITY, 100.0)
    assert found.limit_s(Phase.QUALITY) == 7.0
    assert found.reason(Phase.QUALITY).startswith("its quality took longer than 7 s")
