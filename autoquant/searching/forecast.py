"""What plans will cost: exactly where it follows from the plan, and latency by its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoquant.core.measurement import Candidate, Kind, Measurement, Measurements
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.searching.cost_model import CostModel, Observation

_NEWS = 8
"""The latency model is fitted again after this many measurements."""
_WINDOW = 256


class Forecast:
    """Predicts costs by the names of measurements, and learns from those that were made.

    Args:
        space: The search space.
        exact: Gives the costs that follow from a plan.
        latency: Model of milliseconds over knobs; None: latency is not predicted.
        baseline_ms: Latency of the float model; needed with `latency`.
    """

    def __init__(
        self,
        space: SearchSpace,
        exact: Callable[[Plan], Measurements],
        latency: CostModel | None = None,
        baseline_ms: float = 0.0,
    ) -> None:
        self._space = space
        self._exact = exact
        self._latency = latency
        self._baseline_ms = baseline_ms
        self._seen: dict[int, Observation] = {}
        self._news = 0

    def learn(self, candidate: Candidate) -> None:
        """Take in a candidate; only a latency that was measured teaches something."""
        speedup = candidate.measurements.get("speedup")
        if self._latency is None or speedup is None or speedup.kind is Kind.ESTIMATED:
            return
        cost = self._baseline_ms / speedup.value
        stderr = cost * (speedup.stderr or 0.0) / speedup.value
        choices = Plan.of(self._space.choices(candidate.plan))
        self._news += candidate.number not in self._seen
        self._seen[candidate.number] = Observation(choices, cost, stderr)

    def predict(self, plan: Plan) -> Measurements:
        """Predict the costs of a plan; a latency has its standard error."""
        known = dict(self._exact(plan))
        if self._latency is None:
            return known
        if self._news >= _NEWS:
            observations = tuple(self._seen.values())[-_WINDOW:]
            self._latency = replace(self._latency, observations=observations)
            self._news = 0
        found = self._latency.predict(Plan.of(self._space.choices(plan)))
        speedup = self._baseline_ms / found.mean
        return {
            **known,
            "latency_ms": Measurement(found.mean, Kind.ESTIMATED, stderr=found.stderr),
            "speedup": Measurement(
                speedup, Kind.ESTIMATED, stderr=speedup * found.stderr / found.mean
            ),
        }
