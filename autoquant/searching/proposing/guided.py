"""Guided proposals: plans that a draw from the additive models expects to push the frontier.

Thompson sampling (Russo et al., "A Tutorial on Thompson Sampling", 2018) with the hypervolume
gained as what is maximized: each proposal draws both models, the noise and the cost, from their
posteriors, so that moves go where the models are unsure, and takes the plan that would gain most
if the draw were the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Candidate, Kind, Measurement, noise_ratio
from autoquant.core.objectives import Goal
from autoquant.core.pareto import area_gained, frontier_mask, hypervolume
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.searching.costing.cost_model import CostModel, Observation
from autoquant.searching.proposing.moves import (
    DenseTable,
    Options,
    Rows,
    neighbour_rows,
    trade_rows,
)
from autoquant.searching.proposing.refusals import Taken

Floats = npt.NDArray[np.float64]

_TRADES = 24
_NEIGHBOURS = 192
_WINDOW = 256
_LEAST_NOISE = 1e-15
_MARGIN = 1e-6
_RETAKES = 2
_JUDGES = 16
"""Draws of the models that judge what a round may gain."""
_LEAST_SHARE = 0.05
"""A change is never predicted to leave less than this share of what was measured."""


Retake = Callable[[Plan], Sequence[Observation]]
"""Noise of plans that differ from the given one in one knob; plans of the answer are over knobs."""


@dataclass(frozen=True, slots=True)
class CostAxis:
    """The cost that is traded against output error.

    Attributes:
        objective: Reads it off a candidate.
        model: Predicts it, over knobs: milliseconds where the objective is latency, else its
            measurement. A table is exact.
        baseline_ms: Latency of the float model where the objective is latency.
        limit: Largest loss that a constraint allows; infinite: any.
    """

    objective: Goal
    model: CostModel | CostTable
    baseline_ms: float | None = None
    limit: float = math.inf

    def loss_of(self, cost: Floats) -> Floats:
        """The objective's loss of what the model predicts."""
        if self.baseline_ms is None:
            return cost
        return -self.baseline_ms / np.maximum(cost, 1e-9)

    @property
    def table(self) -> CostTable:
        """What each choice costs, as far as is known."""
        return self.model if isinstance(self.model, CostTable) else self.model.table

    def predict(self, choices: Plan) -> tuple[float, float]:
        """Cost of a plan over knobs, in the model's unit, and its standard error."""
        if isinstance(self.model, CostTable):
            return self.model.predict(choices), 0.0
        found = self.model.predict(choices)
        return found.mean, found.stderr

    def draw(self, random: np.random.Generator) -> CostTable:
        """What plans may well cost."""
        return self.model if isinstance(self.model, CostTable) else self.model.draw(random)

    def cost_of(self, candidate: Candidate) -> tuple[float, float | None]:
        """A candidate's cost in the model's unit, with its standard error; None: a prediction."""
        found = candidate.measurements[self.objective.measurement]
        if self.baseline_ms is None:
            return found.value, found.stderr or 0.0
        cost = self.baseline_ms / found.value
        if found.kind is Kind.ESTIMATED:
            return cost, None
        return cost, cost * (found.stderr or 0.0) / found.value


@dataclass(frozen=True, eq=False)
class _Point:
    """A measured candidate in the models' units; its row is found when it is asked for."""

    space: SearchSpace
    options: Options
    plan: Plan
    noise: float
    noise_stderr: float
    cost: float
    cost_stderr: float | None
    is_feasible: bool

    @cached_property
    def choices(self) -> Plan:
        """The plan over knobs."""
        return Plan.of(self.space.choices(self.plan))

    @cached_property
    def row(self) -> Rows:
        """The plan as option numbers."""
        return self.options.row(dict(self.choices.assignment))


class Guide:
    """Proposes plans that trade output error for one cost.

    Args:
        space: What may be drawn.
        noise: Predicts the outputs' noise-to-signal power ratio, over knobs.
        axis: The cost.
        retake: Gives the noise of plans around one, as sensitivities taken there say: a ranking
            of the float model misses how ops interact. None: no such thing.
    """

    def __init__(
        self,
        space: SearchSpace,
        noise: CostModel,
        axis: CostAxis,
        retake: Retake | None = None,
    ) -> None:
        self._space = space
        self._noise = noise
        self._axis = axis
        self._options = Options(space)
        self._recent: dict[int, _Point] = {}
        self._front: dict[int, _Point] = {}
        self._worst = np.full(2, -math.inf)
        self._retake = retake
        self._retaken: dict[str, tuple[Observation, ...]] = {}
        self._pending: dict[str, Rows] = {}
        self._is_fitted = False

    def observe(self, candidate: Candidate, *, is_feasible: bool) -> None:
        """Take in a candidate; one that failed or lacks a measurement teaches nothing."""
        needed = {"sqnr_db", self._axis.objective.measurement}
        if candidate.failure is not None or not needed <= set(candidate.measurements):
            return
        noise, noise_stderr = _noise_of(candidate.measurements["sqnr_db"])
        cost, cost_stderr = self._axis.cost_of(candidate)
        point = _Point(
            self._space,
            self._options,
            candidate.plan,
            noise=noise,
            noise_stderr=noise_stderr,
            cost=cost,
            cost_stderr=cost_stderr,
            is_feasible=is_feasible and candidate.stopped is None,
        )
        self._recent[candidate.number] = point
        if len(self._recent) > _WINDOW:
            del self._recent[min(self._recent)]
        if point.is_feasible:
            self._keep_on_front(candidate.number, point)
        self._is_fitted = False

    def _keep_on_front(self, number: int, point: _Point) -> None:
        """Only the frontier, and how far the feasible candidates reach, is kept for good."""
        points = {**self._front, number: point}
        losses = self._losses_of(tuple(points.values()))
        kept = frontier_mask(losses)
        self._worst = np.maximum(self._worst, losses[-1])
        self._front = {n: p for (n, p), stays in zip(points.items(), kept, strict=True) if stays}

    def propose(
        self, random: np.random.Generator, pending: Sequence[Plan], taken: Taken
    ) -> Plan | None:
        """Give the new plan that gains most under one draw; None where the draw offers none.

        Plans that are pending, asked for and not measured, count as drawn.
        """
        front = [self._front[number] for number in sorted(self._front)]
        if not front:
            return None
        self._retake_around_best()
        self._fit()
        noise = self._options.dense(_positive(self._noise.draw(random), self._noise.prior))
        cost = self._options.dense(self._axis.draw(random))
        known = self._losses_of(front)
        reference = self._reference
        trades = trade_rows(noise, cost, _TRADES, random)
        starts = np.stack([point.row for point in front])
        moved, origins = neighbour_rows(starts, self._options.counts, _NEIGHBOURS, random)
        shifted_noise = _shift([p.noise for p in front], noise, starts, moved, origins)
        shifted_cost = _shift([p.cost for p in front], cost, starts, moved, origins)
        rows = np.concatenate([trades, moved])
        losses = self._losses(
            np.concatenate([noise.predict(trades), shifted_noise]),
            np.concatenate([cost.predict(trades), shifted_cost]),
        )
        if pending:
            waiting = self._rows_of(pending)
            drawn = self._losses(noise.predict(waiting), cost.predict(waiting))
            known = np.concatenate([known, drawn])
        return self._first_new(rows, area_gained(losses, known, reference), taken)

    def models(self) -> tuple[CostModel, CostAxis]:
        """The noise over knobs, and the cost, as the candidates so far teach them."""
        self._fit()
        return self._noise, self._axis

    def expected_gain(self, random: np.random.Generator, count: int, taken: Taken) -> float:
        """Hypervolume that the next plans may be expected to add, as a share of the frontier's.

        The plans are those that would be proposed; what they gain is the mean over further draws
        of the models, so that a draw does not praise what it chose itself.
        """
        proposed: list[Plan] = []
        while len(proposed) < count:
            plan = self.propose(random, proposed, _Also(taken, proposed))
            if plan is None:
                break
            proposed.append(plan)
        if not proposed:
            return 0.0 if self._front else math.inf
        front = self._losses_of([self._front[number] for number in sorted(self._front)])
        reference = self._reference
        whole = hypervolume(front, reference)
        rows, gains = self._rows_of(proposed), []
        for _ in range(_JUDGES):
            noise = self._options.dense(_positive(self._noise.draw(random), self._noise.prior))
            cost = self._options.dense(self._axis.draw(random))
            drawn = self._losses(noise.predict(rows), cost.predict(rows))
            gains.append(hypervolume(np.concatenate([front, drawn]), reference) - whole)
        gain = float(np.mean(gains))
        return gain / whole if whole > 0.0 else math.inf

    @property
    def _reference(self) -> Floats:
        """Beyond this nothing counts."""
        return np.minimum(self._worst + _MARGIN, [math.inf, self._axis.limit])

    def _retake_around_best(self) -> None:
        """Retake the sensitivities around the cheapest plan that keeps the limits, if it is new."""
        if self._retake is None or len(self._retaken) >= _RETAKES or not self._front:
            return
        best = min(self._front.values(), key=lambda point: point.cost)
        if best.plan.digest not in self._retaken:
            self._retaken[best.plan.digest] = tuple(self._retake(best.plan))
            self._is_fitted = False

    def _fit(self) -> None:
        """Give both models the observations so far, once."""
        if self._is_fitted:
            return
        points = [self._recent[number] for number in sorted(self._recent)]
        around = (item for found in self._retaken.values() for item in found)
        measured = (Observation(p.choices, p.noise, p.noise_stderr) for p in points)
        self._noise = replace(self._noise, observations=(*around, *measured))
        if isinstance(self._axis.model, CostModel):
            model = replace(
                self._axis.model,
                observations=tuple(
                    Observation(p.choices, p.cost, p.cost_stderr)
                    for p in points
                    if p.cost_stderr is not None
                ),
            )
            self._axis = replace(self._axis, model=model)
        self._is_fitted = True

    def _rows_of(self, pending: Sequence[Plan]) -> Rows:
        """Rows of the plans that are being measured; those of the last call are kept."""
        rows = [
            self._pending[plan.digest]
            if plan.digest in self._pending
            else self._options.row(self._space.choices(plan))
            for plan in pending
        ]
        self._pending = {p.digest: row for p, row in zip(pending, rows, strict=True)}
        return np.stack(rows)

    def _losses_of(self, points: Sequence[_Point]) -> Floats:
        noise = np.array([point.noise for point in points])
        return self._losses(noise, np.array([point.cost for point in points]))

    def _losses(self, noise: Floats, cost: Floats) -> Floats:
        """Both axes as losses, shape (plans, 2): minus the SQNR in dB, and the cost's loss."""
        decibels = 10.0 * np.log10(np.maximum(noise, _LEAST_NOISE))
        return np.stack([decibels, self._axis.loss_of(cost)], axis=1)

    def _first_new(self, rows: Rows, gains: Floats, taken: Taken) -> Plan | None:
        for index in np.argsort(-gains, kind="stable"):
            if gains[index] <= 0.0:
                return None
            plan = self._options.plan(rows[index])
            if plan not in taken:
                return plan
        return None


@dataclass(frozen=True, slots=True)
class _Also:
    """What is taken, and some more plans."""

    taken: Taken
    more: Sequence[Plan]

    def __contains__(self, plan: object) -> bool:
        return plan in self.taken or plan in self.more

    def __len__(self) -> int:
        return len(self.taken) + len(self.more)


def _positive(drawn: CostTable, prior: CostTable) -> CostTable:
    """Noise is never negative: what was drawn so keeps a little of what was expected."""
    ops = {key: max(value, _LEAST_SHARE * prior.ops[key]) for key, value in drawn.ops.items()}
    return replace(drawn, ops=ops)


def _noise_of(sqnr_db: Measurement) -> tuple[float, float]:
    """Noise-to-signal power ratio and its standard error."""
    noise = noise_ratio(sqnr_db.value)
    return noise, noise * math.log(10.0) / 10.0 * (sqnr_db.stderr or 0.0)


def _shift(
    measured: Sequence[float], table: DenseTable, starts: Rows, moved: Rows, origins: Rows
) -> Floats:
    """What a move from a measured plan is predicted to cost: only the difference is a model's."""
    before = np.asarray(measured)[origins]
    change = table.predict(moved) - table.predict(starts)[origins]
    return np.asarray(np.maximum(before + change, _LEAST_SHARE * before))
