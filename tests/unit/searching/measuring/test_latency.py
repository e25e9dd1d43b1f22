"""Latency is a ratio of interleaved runs, whatever the machine does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from autoquant.core.measurement import Kind, Measurement, TimedBy
from autoquant.searching.measuring.clocks import Clocks
from autoquant.searching.measuring.latency import (
    CROWDED_ERROR,
    SITTING_ERROR,
    measure_alone,
    measure_latency,
    with_sitting_error,
)

pytestmark = pytest.mark.usefixtures("whole_slices")


class Machine:
    """Clocks that functions move on, slower and slower; others take the core in between."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now = 0.0
        self.taken = 0.0
        self.drift = drift
        self.calls: list[str] = []

    @property
    def clocks(self) -> Clocks:
        def own() -> float:
            return self.now

        return Clocks(
            wall=lambda: self.now + self.taken,
            thread=own,
            process=own,
            queued=lambda: self.taken,
        )

    def work(self, name: str, seconds: float, others: float = 0.0) -> None:
        self.calls.append(name)
        self.now += seconds * (1.0 + self.drift * self.now)
        self.taken += others


@pytest.mark.parametrize("drift", [0.0, 0.05], ids=["steady", "slowing down"])
def test_the_ratio_survives_a_machine_that_slows_down(drift: float) -> None:
    machine = Machine(drift)
    found = measure_latency(
        lambda: machine.work("candidate", 0.010),
        lambda: machine.work("float", 0.030),
        pairs=20,
        clocks=machine.clocks,
    )
    assert found["speedup"].value == pytest.approx(3.0, rel=0.02)
    assert not found["speedup"].busy


def test_what_other_processes_take_does_not_count() -> None:
    machine = Machine()
    found = measure_latency(
        lambda: machine.work("c", 0.010),
        lambda: machine.work("f", 0.030, others=0.070),
        pairs=20,
        clocks=machine.clocks,
    )
    assert found["speedup"].value == pytest.approx(3.0)
    assert found["speedup"].clock is TimedBy.THREAD
    assert found["latency_ms"].value == pytest.approx(10.0)
    assert found["wall_ms"].value == pytest.approx(10.0)
    assert found["wall_ms"].clock is TimedBy.WALL


def test_with_more_threads_the_undisturbed_wall_times_count() -> None:
    machine = Machine()
    turns = count()
    found = measure_latency(
        lambda: machine.work("c", 0.010),
        lambda: machine.work("f", 0.030, others=0.070 if next(turns) % 3 == 0 else 0.0),
        pairs=20,
        threads=2,
        clocks=machine.clocks,
    )
    assert found["speedup"].clock is TimedBy.WALL
    assert found["speedup"].value == pytest.approx(3.0)


def test_the_two_take_turns_in_going_first() -> None:
    machine = Machine()
    measure_latency(
        lambda: machine.work("c", 0.01),
        lambda: machine.work("f", 0.01),
        pairs=4,
        clocks=machine.clocks,
    )
    assert "".join(machine.calls[-8:]) == "cffccffc"


def test_both_fill_the_same_time_slice() -> None:
    machine = Machine()
    found = measure_latency(
        lambda: machine.work("c", 0.0001),
        lambda: machine.work("f", 0.020),
        pairs=3,
        clocks=machine.clocks,
    )
    assert machine.calls[-201:] in (["c"] * 200 + ["f"], ["f"] + ["c"] * 200)
    assert found["latency_ms"].value == pytest.approx(0.1)


def test_no_more_pairs_than_a_stable_time_needs() -> None:
    machine = Machine()
    found = measure_latency(
        lambda: machine.work("c", 0.02),
        lambda: machine.work("f", 0.06),
        pairs=20,
        clocks=machine.clocks,
    )
    assert found["speedup"].samples == 6


def unsteady(machine: Machine, spread: float) -> Callable[[], None]:
    noise = np.random.default_rng(0)
    return lambda: machine.work("c", 0.02 * float(np.exp(noise.normal(0.0, spread))))


def test_pairs_are_added_until_the_error_is_below_one_percent() -> None:
    machine = Machine()
    found = measure_latency(
        unsteady(machine, 0.03),
        lambda: machine.work("f", 0.02),
        pairs=40,
        clocks=machine.clocks,
    )
    assert 6 < found["speedup"].samples <= 40
    assert not found["speedup"].busy


def test_what_is_decided_is_timed_no_further() -> None:
    machine = Machine()
    found = measure_latency(
        unsteady(machine, 0.03),
        lambda: machine.work("f", 0.02),
        pairs=40,
        clocks=machine.clocks,
        decided=lambda speedup: speedup.value > 0.5,
    )
    assert found["speedup"].samples == 6


def test_an_unsteady_machine_is_timed_for_longer_and_called_busy() -> None:
    machine = Machine()
    found = measure_latency(
        unsteady(machine, 0.8),
        lambda: machine.work("f", 0.02),
        pairs=8,
        clocks=machine.clocks,
    )
    assert found["speedup"].samples >= 24
    assert found["speedup"].busy


def test_halves_of_a_sitting_that_disagree_are_called_busy() -> None:
    machine = Machine()
    found = measure_latency(
        lambda: machine.work("c", 0.02 * 1.02 ** (len(machine.calls) / 2)),
        lambda: machine.work("f", 0.02),
        pairs=20,
        clocks=machine.clocks,
    )
    assert found["speedup"].busy


@pytest.mark.parametrize(
    ("seconds", "others", "busy"),
    [(0.001, 0.001, True), (0.001, 0.0001, False), (0.05, 0.05, False)],
    ids=["short and held up", "short", "long and held up"],
)
def test_short_calls_that_others_hold_up_are_called_busy(
    seconds: float, others: float, *, busy: bool
) -> None:
    machine = Machine()
    found = measure_latency(
        lambda: machine.work("c", seconds, others),
        lambda: machine.work("f", 2 * seconds, others),
        pairs=8,
        clocks=machine.clocks,
    )
    assert found["speedup"].value == pytest.approx(2.0)
    assert found["speedup"].busy is busy


def test_of_long_calls_a_few_pairs_are_enough() -> None:
    machine = Machine()
    found = measure_latency(
        lambda: machine.work("c", 1.0 if len(machine.calls) % 3 else 1.4),
        lambda: machine.work("f", 3.0),
        pairs=20,
        clocks=machine.clocks,
    )
    assert found["speedup"].samples == 6


def test_two_pairs_tell_that_a_call_is_far_slower() -> None:
    machine = Machine()
    found = measure_latency(
        lambda: machine.work("c", 1.0 if len(machine.calls) % 3 else 1.04),
        lambda: machine.work("f", 0.2),
        pairs=20,
        clocks=machine.clocks,
    )
    assert found["speedup"].samples == 2
    assert found["speedup"].value == pytest.approx(0.2, rel=0.05)


def test_a_model_without_a_rival_is_timed_alone() -> None:
    machine = Machine()
    found = measure_alone(lambda: machine.work("f", 0.5), times=12, clocks=machine.clocks)
    assert found.value == pytest.approx(500.0)
    assert found.samples == 12
    assert len(machine.calls) == 14  # one to warm up, one to find the clock


@pytest.mark.parametrize(("others", "share"), [(0.0, 0.0), (0.070, CROWDED_ERROR)])
def test_an_error_covers_what_others_on_the_cores_change(others: float, share: float) -> None:
    machine = Machine()
    found = measure_latency(
        lambda: machine.work("c", 0.020, others=others),
        lambda: machine.work("f", 0.060),
        pairs=6,
        clocks=machine.clocks,
    )
    assert found["speedup"].stderr == pytest.approx(3.0 * share)
    assert found["latency_ms"].stderr == pytest.approx(20.0 * share)
    assert not found["speedup"].busy


def test_an_error_covers_what_two_sittings_differ_by() -> None:
    found = with_sitting_error(Measurement(2.0, Kind.MEASURED, stderr=0.0))
    assert found.stderr == pytest.approx(2.0 * SITTING_ERROR)
