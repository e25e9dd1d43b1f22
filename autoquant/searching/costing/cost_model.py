"""The cost of a plan nobody measured: the profile, corrected by the candidates that were."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.searching.costing.cost_terms import CostTerms, Ints, number_terms

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trust:
    """How far a profile may be off: standard deviations, each relative to what it is of.

    Attributes:
        term: One op or boundary, by itself.
        group: All ops of a scheme, or all boundaries of a pair of schemes, together.
        constant: What all plans share, relative to the mean cost.
        misfit: What no sum of ops and boundaries explains, relative to the plan's cost.
    """

    term: float = 0.15
    group: float = 0.1
    constant: float = 0.05
    misfit: float = 0.02

    def scaled(self, term: float, group: float, misfit: float) -> Trust:
        """The same with three of them multiplied."""
        return replace(
            self, term=self.term * term, group=self.group * group, misfit=self.misfit * misfit
        )


_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_FACTOR_SPREAD = math.log(2.5)
_LEAST_ERROR = 1e-12
"""No cost is known better than to this share of the largest: a plan may cost nothing at all."""
_LEAST_NOISE = 1e-10
"""Variance that every observation has by itself, as a share of its own."""
_JUDGES = 96
"""Observations that decide on the trust; more would cost time and change little."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A measured plan: its cost and the standard error of that."""

    plan: Plan
    cost: float
    stderr: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cost) and self.stderr >= 0.0):
            raise ValueError(f"a cost must be finite with its error, got {self}")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A plan's cost, and the standard deviation of what it may really be."""

    mean: float
    stderr: float


@dataclass(frozen=True, eq=False)
class CostModel:
    """Bayesian linear regression on ops and boundaries, with a profile as the prior mean.

    The cost of a plan is the constant, its ops and its boundaries, plus a misfit that belongs to
    the plan alone. Each term is normal around its profiled cost; terms of one scheme may be off
    by a common factor. How far, is itself learnt from the observations: the trust that makes
    them most likely (evidence, MacKay 1992), pulled towards the given one. Without observations
    the model is the profile.

    Solved in the space of observations, not of terms (Rasmussen and Williams, 2006, eq. 2.11):
    O(n^2 (sites + edges) + n^3) once for n observations; 1,000 knobs of 4 schemes and 100
    observations take a second.

    Attributes:
        prior: The profile, over sites or (from `by_knob`) over knobs; plans must be alike.
        observations: Measured plans, in the unit of `prior`. Where a speed-up was measured, give
            the baseline's latency over it: ratios are free of drift.
        trust: What is believed of the profile beforehand.
    """

    prior: CostTable
    observations: tuple[Observation, ...] = ()
    trust: Trust = field(default_factory=Trust)

    def observe(self, plan: Plan, cost: float, stderr: float) -> CostModel:
        """Give the model that also knows this measurement.

        Raises:
            ValueError: The cost is not finite, or its standard error negative.
        """
        return replace(self, observations=(*self.observations, Observation(plan, cost, stderr)))

    def predict(self, plan: Plan) -> Prediction:
        """Predict the cost of a plan.

        Raises:
            KeyError: The table lacks a site of the plan under the plan's scheme.
        """
        mean = self.table.predict(plan)
        row = self._terms.of(plan)[None, :]
        fit = self._fit
        variance = self._covariance(row, row, fit.trust)[0, 0]
        if self.observations:
            across = self._covariance(self._rows, row, fit.trust)[:, 0]
            variance -= across @ fit.inverse @ across
        misfit = fit.trust.misfit * self.prior.predict(plan)
        return Prediction(mean, math.sqrt(max(variance, 0.0) + misfit**2))

    @cached_property
    def table(self) -> CostTable:
        """The corrected costs, for an integer program: `table.predict` is `predict(...).mean`."""
        if not self.observations:
            return self.prior
        return self._corrected(self._terms.costs, self.prior.constant, self._fit.weights)

    def draw(self, random: np.random.Generator) -> CostTable:
        """Draw a table from the posterior: what the costs may well be.

        A draw from the prior, corrected by what it gets wrong at the observations (Matheron's
        rule; Wilson et al., "Efficiently Sampling Functions from Gaussian Process Posteriors",
        ICML 2020, eq. 6).
        """
        terms, trust = self._terms, self._fit.trust
        count = len(terms.costs)
        factors = trust.group * random.standard_normal(int(terms.groups.max()) + 1)
        costs = terms.costs * (1.0 + factors[terms.groups])
        costs = costs + trust.term * terms.spreads * random.standard_normal(count)
        spread = math.sqrt(self._constant_variance(trust))
        constant = self.prior.constant + spread * float(random.standard_normal())
        if not self.observations:
            return self._corrected(costs, constant, np.zeros(0))
        found = np.array([item.cost for item in self.observations])
        noise = np.sqrt(self._noise(trust, slice(None))) * random.standard_normal(len(found))
        errors = found - (constant + costs[self._rows].sum(axis=1) + noise)
        return self._corrected(costs, constant, self._fit.inverse @ errors)

    def _corrected(self, costs: Floats, constant: float, weights: Floats) -> CostTable:
        """The table of some costs, pulled towards the observations by their weights."""
        terms, trust = self._terms, self._fit.trust
        if len(weights):
            pulls = terms.pulls(self._rows, weights)
            shared = self._parts.T @ weights
            costs = (
                costs
                + (trust.term * terms.spreads) ** 2 * pulls
                + trust.group**2 * terms.costs * shared[terms.groups]
            )
            constant += float(self._constant_variance(trust) * weights.sum())
        return replace(
            self.prior,
            constant=constant,
            ops={key: float(costs[index]) for key, index in terms.ops.items()},
            edges={edge: _values(pairs, costs) for edge, pairs in terms.edges},
        )

    @cached_property
    def _terms(self) -> CostTerms:
        return number_terms(self.prior)

    @cached_property
    def _rows(self) -> Ints:
        return self._terms.rows([item.plan for item in self.observations])

    @cached_property
    def _parts(self) -> Floats:
        return self._terms.shared_parts(self._rows)

    @cached_property
    def _prior_means(self) -> Floats:
        return np.asarray(self._terms.costs[self._rows].sum(axis=1) + self.prior.constant)

    @cached_property
    def _fit(self) -> _Fit:
        if not self.observations:
            return _Fit(self.trust, np.zeros((0, 0)), np.zeros(0))
        trust = self._learn_trust()
        kernel = self._covariance(self._rows, self._rows, trust)
        kernel += np.diag(self._noise(trust, slice(None)))
        correlations, scales = _correlations(kernel)
        inverse = np.linalg.inv(correlations) / np.outer(scales, scales)
        return _Fit(trust, inverse, inverse @ self._residuals)

    @cached_property
    def _residuals(self) -> Floats:
        return np.array([item.cost for item in self.observations]) - self._prior_means

    def _learn_trust(self) -> Trust:
        """The trust of the largest posterior, over a grid around the given one."""
        judges = slice(-_JUDGES, None)
        rows, residuals = self._rows[judges], self._residuals[judges]
        own = self._terms.own_kernel(rows, rows)
        parts = self._terms.shared_parts(rows)
        count = len(_FACTORS)
        found = np.empty((count, count, count))
        for (at, term), (place, misfit) in itertools.product(enumerate(_FACTORS), repeat=2):
            trust = self.trust.scaled(term, 1.0, misfit)
            apart = trust.term**2 * own + self._constant_variance(trust)
            apart += np.diag(self._noise(trust, judges))
            spreads = trust.group * np.array(_FACTORS)
            found[at, :, place] = _log_evidences(apart, parts, spreads, residuals)
        prior = (np.log(_FACTORS) / _FACTOR_SPREAD) ** 2
        found -= 0.5 * (prior[:, None, None] + prior[:, None] + prior)
        best = np.unravel_index(found.argmax(), found.shape)
        return self.trust.scaled(*(_FACTORS[index] for index in best))

    def _covariance(self, rows: Ints, columns: Ints, trust: Trust) -> Floats:
        """Prior covariance of two lists of plans, without misfit and noise."""
        terms = self._terms
        shared = self._parts_of(rows) @ self._parts_of(columns).T
        own = trust.term**2 * terms.own_kernel(rows, columns)
        covariance: Floats = own + trust.group**2 * shared + self._constant_variance(trust)
        return covariance

    def _parts_of(self, rows: Ints) -> Floats:
        is_known = bool(self.observations) and rows is self._rows
        return self._parts if is_known else self._terms.shared_parts(rows)

    def _constant_variance(self, trust: Trust) -> float:
        typical = float(self._prior_means.mean()) if self.observations else self.prior.constant
        return (trust.constant * typical) ** 2

    def _noise(self, trust: Trust, which: slice) -> Floats:
        """Variance of each observation around the additive model."""
        misfits = trust.misfit * self._prior_means[which]
        return np.asarray(self._variances[which] + misfits**2)

    @cached_property
    def _variances(self) -> Floats:
        """Of each observation by itself."""
        stderrs = np.array([item.stderr for item in self.observations])
        costs = np.array([abs(item.cost) for item in self.observations])
        least = _LEAST_ERROR * max(float(costs.max()), float(np.abs(self._prior_means).max()))
        return np.asarray(stderrs**2 + least**2)


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """The trust that was learnt, the inverse of (K + noise), and that times the residuals."""

    trust: Trust
    inverse: Floats
    weights: Floats


def _log_evidences(apart: Floats, parts: Floats, spreads: Floats, residuals: Floats) -> Floats:
    """Log densities of residuals with the covariance apart + s^2 parts parts', for each spread s.

    Up to a constant; Rasmussen and Williams, eq. 2.30. With apart = L L' and the thin singular
    value decomposition L^-1 parts = U S V' the rest is a diagonal, 1 + s^2 S^2: one factorization
    for all spreads.

    Args:
        apart: Shape (n, n).
        parts: Shape (n, groups).
        spreads: Shape (m,).
        residuals: Shape (n,).

    Returns:
        Shape (m,).
    """
    correlations, scales = _correlations(apart)
    factor = np.linalg.cholesky(correlations)
    solved = np.linalg.solve(factor, np.column_stack([residuals, parts]) / scales[:, None])
    basis, strengths, _ = np.linalg.svd(solved[:, 1:], full_matrices=False)
    inside = basis.T @ solved[:, 0]
    outside = solved[:, 0] - basis @ inside
    stretched = 1.0 + (spreads[:, None] * strengths) ** 2
    determinants = np.log(np.diag(factor)).sum() + np.log(scales).sum()
    determinants += 0.5 * np.log(stretched).sum(axis=1)
    squares = outside @ outside + (inside**2 / stretched).sum(axis=1)
    return np.asarray(-0.5 * squares - determinants)


def _correlations(covariance: Floats) -> tuple[Floats, Floats]:
    """Correlations and standard deviations: costs may differ by ten orders of magnitude.

    Each cost has a share of noise that rounding cannot swallow, or costs that are next to nothing
    beside what all plans share would leave no positive definite matrix.
    """
    scales = np.sqrt(np.diag(covariance))
    correlations = covariance / np.outer(scales, scales)
    correlations += _LEAST_NOISE * np.eye(len(scales))
    return correlations, scales


def _values(
    pairs: dict[tuple[Scheme, Scheme], int], costs: Floats
) -> dict[tuple[Scheme, Scheme], float]:
    return {pair: float(costs[index]) for pair, index in pairs.items()}
