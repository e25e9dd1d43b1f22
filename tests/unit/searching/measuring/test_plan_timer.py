"""Plans are timed against a fast float plan, whose speed over the float model is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from autoquant.core.measurement import TimedBy
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import BackendError
from autoquant.searching.measuring.clocks import Clocks
from autoquant.searching.measuring.plan_timer import PlanTimer, Timing

FP32, BF16, INT8 = (Plan.of({"a": scheme}) for scheme in (Scheme.FP32, Scheme.BF16, Scheme.INT8))
SECONDS = {"eager": 0.30, FP32: 0.20, BF16: 0.10, INT8: 0.05}


class Engine:
    """Takes a fixed time for each plan, and counts the calls."""

    def __init__(self, *refused: Plan) -> None:
        self.now = 0.0
        self.calls: list[object] = []
        self.refused = refused

    def of(self, what: Plan | str) -> Callable[[], None]:
        if what in self.refused:
            raise BackendError("no such kernel")

        def call() -> None:
            self.calls.append(what)
            self.now += SECONDS[what]

        return call

    def timer(self) -> PlanTimer:
        clock = self.clock
        clocks = Clocks(wall=clock, thread=clock, process=clock, queued=lambda: 0.0)
        plans = ((Scheme.FP32, FP32), (Scheme.BF16, BF16))
        return PlanTimer(self.of, self.of("eager"), Timing(8, 1, clocks), plans, self.few)

    def few(self, what: Plan) -> Callable[[], None]:
        def call() -> None:
            self.now += SECONDS[what] / 16

        return call

    def clock(self) -> float:
        return self.now


def test_the_fastest_float_plan_is_the_rival_beside_the_float_model() -> None:
    engine = Engine()
    timer = engine.timer()
    rivals = timer.rivals()
    assert rivals["latency_ms"].value == pytest.approx(300.0)
    assert rivals["speedup.all-fp32"].value == pytest.approx(1.5)
    assert rivals["speedup.all-bf16"].value == pytest.approx(3.0)
    assert timer.scheme is Scheme.BF16
    found = timer.time(INT8, engine.of(INT8))
    assert found["speedup"].value == pytest.approx(6.0)
    assert found["float_speedup"].value == pytest.approx(2.0)
    assert found["speedup"].clock is TimedBy.THREAD


def test_a_float_plan_that_is_far_slower_runs_on_a_few_samples_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SECONDS, BF16, 2.0)
    engine = Engine()
    timer = engine.timer()
    assert timer.rivals()["speedup.all-bf16"].value == pytest.approx(0.15)
    assert BF16 not in engine.calls
    assert timer.scheme is Scheme.FP32


def test_what_stands_in_one_row_agrees() -> None:
    engine = Engine()
    timer = engine.timer()
    timer.rivals()
    found = timer.time(INT8, engine.of(INT8))
    ratio = found["fp32_latency_ms"].value / found["latency_ms"].value
    assert ratio == pytest.approx(found["speedup"].value)


def test_the_float_model_is_timed_once_a_sitting() -> None:
    engine = Engine()
    timer = engine.timer()
    timer.rivals()
    engine.calls.clear()
    timer.time(INT8, engine.of(INT8))
    assert "eager" not in engine.calls
    timer.begin_sitting()
    timer.time(INT8, engine.of(INT8))
    assert "eager" in engine.calls


def test_an_engine_without_a_float_plan_is_timed_against_the_float_model() -> None:
    engine = Engine(FP32, BF16)
    timer = engine.timer()
    assert set(timer.rivals()) == {"latency_ms"}
    found = timer.time(INT8, engine.of(INT8))
    assert found["speedup"].value == pytest.approx(6.0)
    assert "float_speedup" not in found


@pytest.mark.parametrize(("competing", "pairs"), [(9.0, 6), (6.02, 8)], ids=["far", "near"])
def test_a_place_that_is_known_is_timed_no_further(competing: float, pairs: int) -> None:
    engine = Engine()
    timer = engine.timer()
    timer.rivals()
    noise = np.random.default_rng(1)

    def call() -> None:
        engine.now += 0.05 * float(np.exp(noise.normal(0.0, 0.04)))

    assert timer.time(INT8, call, (competing,))["speedup"].samples == pairs


def test_a_reference_that_is_no_longer_what_it_was_makes_times_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine()
    timer = engine.timer()
    timer.rivals()
    found = [timer.time(INT8, engine.of(INT8)) for _ in range(16)]
    monkeypatch.setitem(SECONDS, BF16, 0.14)
    later = timer.time(INT8, engine.of(INT8))
    assert not any(item["speedup"].busy for item in found)
    assert later["speedup"].busy
    assert replace(later["float_speedup"], busy=False) == later["float_speedup"]
