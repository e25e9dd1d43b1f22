"""What is predicted of plans that nobody measured."""

from __future__ import annotations

import pytest

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.searching.costing.cost_model import CostModel
from autoquant.searching.costing.forecast import Forecast

SITES = ("a", "b", "c")
SPACE = SearchSpace(tuple(Knob(name, (name,), (Scheme.INT8, Scheme.FP32)) for name in SITES))
FLOAT_MS = 10.0


def plan(*schemes: Scheme) -> Plan:
    return Plan.of(dict(zip(SITES, schemes, strict=True)))


def measured(number: int, chosen: Plan, speedup: float) -> Candidate:
    found = {"speedup": Measurement(speedup, Kind.MEASURED, stderr=0.01)}
    return Candidate(number, chosen, "made up", found)


@pytest.mark.parametrize("int8_ms", [0.01, -2.0], ids=["ten times too fast", "below nothing"])
def test_no_speedup_is_predicted_beyond_those_that_were_measured(int8_ms: float) -> None:
    ops = {(site, Scheme.FP32): 3.0 for site in SITES} | {
        (site, Scheme.INT8): int8_ms for site in SITES
    }
    model = CostModel(CostTable(1.0, ops))
    forecast = Forecast(SPACE, lambda _: {}, model, FLOAT_MS)
    mixed = plan(Scheme.INT8, Scheme.INT8, Scheme.FP32)
    raw = model.predict(mixed).mean
    assert ("speedup" in forecast.predict(mixed)) == (raw > 0.0)
    forecast.learn(measured(0, plan(*[Scheme.FP32] * 3), 0.9))
    forecast.learn(measured(1, plan(*[Scheme.INT8] * 3), 1.5))
    forecast.settle(2)
    found = forecast.predict(mixed)
    assert 0.9 <= found["speedup"].value <= 1.5
    assert found["latency_ms"].value - (found["latency_ms"].stderr or 0.0) <= raw
    forecast.learn(measured(2, mixed, 4.0))
    assert forecast.predict(mixed)["speedup"].value <= 1.5
    forecast.settle(3)
    assert 1.5 < forecast.predict(mixed)["speedup"].value <= 4.0
