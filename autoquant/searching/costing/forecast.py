"""What plans will cost: exactly where it follows from the plan, and latency by its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from autoquant.core.measurement import Candidate, Kind, Measurement, Measurements
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.searching.costing.cost_model import CostModel, Observation, Prediction

_NEWS = 8
"""The latency model is fitted to so many more measurements at a time."""
_WINDOW = 256


class Forecast:
    """Predicts costs by the names of measurements, and learns from those that were made.

    What it predicts depends on the candidates before the number that `settle` was last given, and
    on nothing else: not on what finished first, nor on which process measured it. A latency is
    never predicted beyond those that were measured; its error covers how far the model lies there.

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
        self._bounds_ms: tuple[float, float] | None = None
        self._fitted: dict[int, Observation] = {}
        self._news: dict[int, Candidate] = {}
        self._latest: dict[str, Prediction] = {}

    def learn(self, candidate: Candidate) -> None:
        """Take in a candidate; only a latency that was measured teaches something."""
        speedup = candidate.measurements.get("speedup")
        if self._latency is None or speedup is None or speedup.kind is Kind.ESTIMATED:
            return
        if candidate.number not in self._fitted:
            self._news[candidate.number] = candidate

    def settle(self, before: int) -> None:
        """Take what was measured of the candidates before a number into account, by eights."""
        ready = sorted(number for number in self._news if number < before)
        self._widen(self._observe(self._news[number]).cost for number in ready)
        ready = ready[: len(ready) // _NEWS * _NEWS]
        if self._latency is None or not ready:
            return
        for number in ready:
            self._fitted[number] = self._observe(self._news.pop(number))
        for number in tuple(self._fitted)[:-_WINDOW]:
            del self._fitted[number]
        self._latency = replace(self._latency, observations=tuple(self._fitted.values()))
        self._latest = {}

    def predict(self, plan: Plan) -> Measurements:
        """Predict the costs of a plan; a latency has its standard error.

        Without a measured latency one may be predicted that is none; then there is none.
        """
        known = dict(self._exact(plan))
        if self._latency is None:
            return known
        found = self._latest.pop(plan.digest, None)
        if found is None:
            found = self._within(self._latency.predict(Plan.of(self._space.choices(plan))))
        self._latest[plan.digest] = found
        if len(self._latest) > _WINDOW:
            del self._latest[next(iter(self._latest))]
        if found.mean <= 0.0:
            return known
        speedup = self._baseline_ms / found.mean
        return {
            **known,
            "latency_ms": Measurement(found.mean, Kind.ESTIMATED, stderr=found.stderr),
            "speedup": Measurement(
                speedup, Kind.ESTIMATED, stderr=speedup * found.stderr / found.mean
            ),
        }

    def _widen(self, costs: Iterable[float]) -> None:
        """Let the bounds hold these times, and that of the float model; predict anew."""
        found = [*costs]
        if found:
            found += self._bounds_ms or (self._baseline_ms,)
            self._bounds_ms = min(found), max(found)
            self._latest = {}

    def _within(self, found: Prediction) -> Prediction:
        low, high = self._bounds_ms or (found.mean, found.mean)
        mean = min(max(found.mean, low), high)
        return Prediction(mean, max(found.stderr, abs(found.mean - mean)))

    def _observe(self, candidate: Candidate) -> Observation:
        speedup = candidate.measurements["speedup"]
        cost = self._baseline_ms / speedup.value
        stderr = cost * (speedup.stderr or 0.0) / speedup.value
        return Observation(Plan.of(self._space.choices(candidate.plan)), cost, stderr)
