"""Latency is a ratio of interleaved runs, whatever the machine does meanwhile."""

from __future__ import annotations

import pytest

from autoquant.searching.measuring.latency import measure_alone, measure_latency


class Machine:
    """A clock that functions move on, slower and slower."""

    def __init__(self, drift: float) -> None:
        self.now = 0.0
        self.drift = drift
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> None:
        self.calls.append(name)
        self.now += seconds * (1.0 + self.drift * self.now)


@pytest.mark.parametrize("drift", [0.0, 0.05], ids=["steady", "slowing down"])
def test_the_ratio_survives_a_machine_that_slows_down(drift: float) -> None:
    machine = Machine(drift)
    found = measure_latency(
        lambda: machine.work("candidate", 0.010),
        lambda: machine.work("float", 0.030),
        pairs=20,
        clock=machine.clock,
    )
    assert found["speedup"].value == pytest.approx(3.0, rel=0.02)
    assert found["speedup"].samples == 20


def test_the_two_take_turns_in_going_first() -> None:
    machine = Machine(0.0)
    measure_latency(
        lambda: machine.work("c", 0.01),
        lambda: machine.work("f", 0.01),
        pairs=4,
        clock=machine.clock,
    )
    assert "".join(machine.calls[-8:]) == "cffccffc"


def test_short_calls_are_bundled() -> None:
    machine = Machine(0.0)
    found = measure_latency(
        lambda: machine.work("c", 0.0001),
        lambda: machine.work("f", 0.0002),
        pairs=3,
        clock=machine.clock,
    )
    assert machine.calls.count("c") >= 3 * 20
    assert found["latency_ms"].value == pytest.approx(0.1)


def test_of_long_calls_a_few_pairs_are_enough() -> None:
    machine = Machine(0.0)
    found = measure_latency(
        lambda: machine.work("c", 1.0),
        lambda: machine.work("f", 3.0),
        pairs=20,
        clock=machine.clock,
    )
    assert found["speedup"].value == pytest.approx(3.0)
    assert found["speedup"].samples == 5


@pytest.mark.parametrize(("jitter", "samples"), [(0.0, 8), (1.5, 24)], ids=["quiet", "busy"])
def test_a_busy_machine_is_timed_for_longer(jitter: float, samples: int) -> None:
    machine = Machine(0.0)
    turns = iter(range(10_000))

    def candidate() -> None:
        machine.work("c", 0.02 * (1.0 + jitter * (next(turns) % 3)))

    found = measure_latency(
        candidate, lambda: machine.work("f", 0.02), pairs=8, clock=machine.clock
    )
    assert found["speedup"].samples == samples


def test_a_model_without_a_rival_is_timed_alone() -> None:
    machine = Machine(0.0)
    found = measure_alone(lambda: machine.work("f", 0.5), times=12, clock=machine.clock)
    assert found.value == pytest.approx(500.0)
    assert found.samples == 12
    assert len(machine.calls) == 13  # one to warm up
