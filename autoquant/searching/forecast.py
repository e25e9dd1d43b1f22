"""What plans will cost: exactly where it follows from the plan, and latency by its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoquant.core.measurement import Candidate, Kind, Measurement, Measurements
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.searching.cost_model import CostModel, Observation, Prediction

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
        self._news: dict[int, Candidate] = {}
        self._latest: dict[str, Prediction] = {}

    def learn(self, candidate: Candidate) -> None:
        """Take in a candidate; only a latency that was measured teaches something."""
        speedup = candidate.measurements.get("speedup")
        if self._latency is None or speedup is None or speedup.kind is Kind.ESTIMATED:
            return
        self._news.pop(candidate.number, None)
        self._news[candidate.number] = candidate
        if len(self._news) > _WINDOW:
            self._news.pop(next(iter(self._news)))

    def predict(self, plan: Plan) -> Measurements:
        """Predict the costs of a plan; a latency has its standard error."""
        known = dict(self._exact(plan))
        if self._latency is None:
            return known
        if len(self._news) >= _NEWS:
            self._latency = replace(self._latency, observations=self._observations())
            self._latest = {}
        found = self._latest.pop(plan.digest, None)
        if found is None:
            found = self._latency.predict(Plan.of(self._space.choices(plan)))
        self._latest[plan.digest] = found
        if len(self._latest) > _WINDOW:
            del self._latest[next(iter(self._latest))]
        speedup = self._baseline_ms / found.mean
        return {
            **known,
            "latency_ms": Measurement(found.mean, Kind.ESTIMATED, stderr=found.stderr),
            "speedup": Measurement(
                speedup, Kind.ESTIMATED, stderr=speedup * found.stderr / found.mean
            ),
        }

    def _observations(self) -> tuple[Observation, ...]:
        """The latest measurements; what is older is forgotten."""
        for number, candidate in self._news.items():
            self._seen.pop(number, None)
            self._seen[number] = self._observe(candidate)
        self._news = {}
        for number in tuple(self._seen)[:-_WINDOW]:
            del self._seen[number]
        return tuple(self._seen.values())

    def _observe(self, candidate: Candidate) -> Observation:
        speedup = candidate.measurements["speedup"]
        cost = self._baseline_ms / speedup.value
        stderr = cost * (speedup.stderr or 0.0) / speedup.value
        return Observation(Plan.of(self._space.choices(candidate.plan)), cost, stderr)
