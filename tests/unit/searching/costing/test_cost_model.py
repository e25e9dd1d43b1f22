"""The cost model: exact in its algebra, humble in its intervals, fast at a thousand knobs."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.searching.costing.cost_model import (
    CostModel,
    Observation,
    Trust,
    _log_evidences,
)
from autoquant.searching.costing.cost_terms import number_terms

SCHEMES = (Scheme.INT8, Scheme.BF16, Scheme.FP32)


def names(count: int) -> list[str]:
    return [f"op{index}" for index in range(count)]


def random_table(seed: int, count: int = 12, schemes: tuple[Scheme, ...] = SCHEMES) -> CostTable:
    draw = np.random.default_rng(seed)
    ops = {(name, scheme): draw.uniform(0.5, 4.0) for name in names(count) for scheme in schemes}
    pairs = list(itertools.permutations(schemes, 2))
    edges = {
        edge: {pair: draw.uniform(0.1, 0.5) for pair in pairs}
        for edge in itertools.pairwise(names(count))
    }
    return CostTable(1.0, ops, edges)


def distorted(table: CostTable, seed: int, spread: float = 0.2) -> CostTable:
    """The table, each term off by some factor, and all int8 ops by one more."""
    draw = np.random.default_rng(seed)

    def off(cost: float) -> float:
        return cost * (1.0 + spread * draw.standard_normal())

    ops = {
        key: off(cost) * (1.3 if key[1] is Scheme.INT8 else 1.0) for key, cost in table.ops.items()
    }
    edges = {
        edge: {pair: off(cost) for pair, cost in pairs.items()}
        for edge, pairs in table.edges.items()
    }
    return CostTable(table.constant * 1.5, ops, edges)


def plans(count: int, seed: int, table: CostTable) -> list[Plan]:
    draw = random.Random(seed)
    sites = dict.fromkeys(site for site, _ in table.ops)
    schemes = list(dict.fromkeys(scheme for _, scheme in table.ops))
    return [Plan.of({site: draw.choice(schemes) for site in sites}) for _ in range(count)]


def observed(model: CostModel, truth: CostTable, measured: list[Plan], noise: float) -> CostModel:
    draw = np.random.default_rng(1)
    for plan in measured:
        cost = truth.predict(plan)
        stderr = noise * cost
        model = model.observe(plan, cost + stderr * float(draw.standard_normal()), stderr)
    return model


def errors(model: CostModel, truth: CostTable, unseen: list[Plan]) -> np.ndarray:
    predicted = np.array([model.predict(plan).mean for plan in unseen])
    return np.abs(predicted / np.array([truth.predict(plan) for plan in unseen]) - 1.0)


def test_without_observations_the_model_is_the_profile() -> None:
    prior = random_table(0)
    model = CostModel(prior)
    for plan in plans(5, 1, prior):
        assert model.predict(plan).mean == prior.predict(plan)
        assert model.predict(plan).stderr > 0.0
    assert model.table is prior


def test_a_wrong_profile_is_corrected_by_what_was_measured() -> None:
    truth = random_table(0)
    prior = distorted(truth, 2)
    unseen = plans(50, 3, truth)
    before = np.median(errors(CostModel(prior), truth, unseen))
    after = errors(observed(CostModel(prior), truth, plans(32, 4, truth), 0.005), truth, unseen)
    assert before > 0.05
    assert np.median(after) < 0.25 * before


def test_many_exact_observations_give_the_truth() -> None:
    truth = random_table(0)
    trust = Trust(term=0.5, group=0.5, constant=1.0, misfit=1e-4)
    model = CostModel(distorted(truth, 2), trust=trust)
    model = observed(model, truth, plans(250, 4, truth), 1e-4)
    # as many unknowns as 12 ops of 3 schemes and 11 edges of 6 pairs leave observable
    assert errors(model, truth, plans(50, 3, truth)).max() < 5e-3


def test_an_interval_of_two_deviations_covers_nineteen_in_twenty() -> None:
    inside = []
    for seed in range(12):
        truth = random_table(seed)
        model = CostModel(distorted(truth, 100 + seed, spread=0.15))
        model = observed(model, truth, plans(16, seed, truth), 0.01)
        for plan in plans(20, 50 + seed, truth):
            found = model.predict(plan)
            inside.append(abs(found.mean - truth.predict(plan)) < 2.0 * found.stderr)
    assert 0.88 < np.mean(inside) <= 1.0  # of 240, drawn 20 at a time from 12 models


def test_intervals_shrink_with_observations_and_grow_with_distrust() -> None:
    truth = random_table(0)
    (plan,) = plans(1, 9, truth)
    alone = CostModel(truth).predict(plan).stderr
    informed = observed(CostModel(truth), truth, plans(16, 1, truth), 0.01).predict(plan).stderr
    doubtful = CostModel(truth, trust=Trust(term=0.6)).predict(plan).stderr
    assert informed < alone < doubtful


def test_a_noisy_observation_moves_the_model_less() -> None:
    prior = random_table(0)
    (plan,) = plans(1, 1, prior)
    cost = prior.predict(plan)
    shifts = [
        CostModel(prior).observe(plan, 1.2 * cost, noise * cost).predict(plan).mean - cost
        for noise in (0.001, 0.05, 10.0)
    ]
    assert shifts[0] > shifts[1] > shifts[2] >= 0.0
    assert shifts[2] < 1e-3 * cost


def test_the_corrected_table_predicts_what_the_regression_does() -> None:
    """Against the same regression in the space of terms, solved densely."""
    truth = random_table(0, count=4)
    prior = distorted(truth, 2)
    measured, unseen = plans(9, 4, truth), plans(9, 5, truth)
    model = observed(CostModel(prior), truth, measured, 0.01)
    trust = model._fit.trust
    terms = number_terms(prior)
    count = len(terms.costs)
    groups = np.eye(int(terms.groups.max()) + 1)[terms.groups] * terms.costs[:, None]
    covariance = np.diag((trust.term * terms.spreads) ** 2) + trust.group**2 * groups @ groups.T
    means = np.array([prior.predict(plan) for plan in measured])

    def features(listed: list[Plan]) -> np.ndarray:
        found = np.zeros((len(listed), count))
        for row, plan in zip(found, listed, strict=True):
            np.add.at(row, terms.of(plan), 1.0)
        return found

    seen, new = features(measured), features(unseen)
    constant = (trust.constant * means.mean()) ** 2
    noise = [item.stderr**2 for item in model.observations] + (trust.misfit * means) ** 2
    kernel = seen @ covariance @ seen.T + constant + np.diag(noise)
    residuals = np.array([item.cost for item in model.observations]) - means
    across = new @ covariance @ seen.T + constant
    expected = [prior.predict(plan) for plan in unseen] + across @ np.linalg.solve(
        kernel, residuals
    )
    variances = (
        np.diag(new @ covariance @ new.T)
        + constant
        - np.diag(across @ np.linalg.solve(kernel, across.T))
        + (trust.misfit * np.array([prior.predict(plan) for plan in unseen])) ** 2
    )
    found = [model.predict(plan) for plan in unseen]
    assert [item.mean for item in found] == pytest.approx(expected)
    assert [item.stderr**2 for item in found] == pytest.approx(variances)


def test_over_knobs_it_predicts_as_over_sites_without_observations() -> None:
    table = random_table(0)
    space = SearchSpace(
        tuple(
            Knob(first, (first, second), SCHEMES)
            for first, second in zip(names(12)[::2], names(12)[1::2], strict=True)
        )
    )
    choices = {knob.name: SCHEMES[index % 3] for index, knob in enumerate(space.knobs)}
    by_knob = CostModel(table.by_knob(space)).predict(Plan.of(choices)).mean
    assert by_knob == pytest.approx(CostModel(table).predict(space.plan(choices)).mean)


@pytest.mark.parametrize("cost", [float("nan"), float("inf")])
def test_a_cost_that_is_no_number_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Observation(Plan.of({"a": Scheme.INT8}), cost, 0.0)


def test_a_plan_under_a_scheme_that_was_not_profiled_is_refused() -> None:
    prior = random_table(0)
    with pytest.raises(KeyError):
        CostModel(prior).predict(Plan.of(dict.fromkeys(names(12), Scheme.FP16)))


@pytest.mark.parametrize(("count", "groups"), [(1, 3), (4, 6), (20, 5)])
def test_evidences_of_one_factorization_differ_as_those_of_the_whole_covariances(
    count: int, groups: int
) -> None:
    draw = np.random.default_rng(count)
    root, parts = draw.standard_normal((count, count)), draw.standard_normal((count, groups))
    apart, residuals = root @ root.T + np.eye(count), draw.standard_normal(count)
    spreads = np.array([0.0, 0.5, 4.0])
    found = _log_evidences(apart, parts, spreads, residuals)
    wholes = [apart + spread**2 * parts @ parts.T for spread in spreads]
    expected = [multivariate_normal(cov=whole).logpdf(residuals) for whole in wholes]
    # each variance has a share of 1e-10 more
    assert np.diff(found) == pytest.approx(np.diff(expected), rel=1e-6)


@pytest.mark.slow
def test_a_thousand_knobs_of_four_schemes_are_fast() -> None:
    schemes = (*SCHEMES, Scheme.INT8_DYNAMIC)
    truth = random_table(0, count=1000, schemes=schemes)
    model = observed(CostModel(truth), truth, plans(100, 1, truth), 0.01)
    started = time.process_time()
    model.predict(plans(1, 2, truth)[0])
    # about a second of one core; a solve over its 16,000 terms would take minutes
    assert time.process_time() - started < 20.0


def test_plans_that_cost_nothing_and_ten_orders_of_magnitude_are_taken() -> None:
    scale = {Scheme.INT8: 1e-2, Scheme.BF16: 1e-6, Scheme.FP32: 0.0}
    ops = {(name, scheme): scale[scheme] for name in names(6) for scheme in SCHEMES}
    model = CostModel(CostTable(0.0, ops), trust=Trust(0.5, 0.3, 0.0, 0.1))
    for scheme in SCHEMES:
        plan = Plan.of(dict.fromkeys(names(6), scheme))
        model = model.observe(plan, 12.0 * scale[scheme], 0.0)
        assert model.predict(plan).mean == pytest.approx(12.0 * scale[scheme], rel=0.2)
    drawn = model.draw(np.random.default_rng(0))
    assert drawn.ops["op0", Scheme.INT8] == pytest.approx(2e-2, rel=1.0)


def test_plans_that_cost_nothing_beside_what_all_plans_share_are_taken() -> None:
    sites = names(40)
    cost = {Scheme.INT8: 1.0, Scheme.BF16: 3e-9, Scheme.FP32: 1e-9}
    table = CostTable(0.0, {(site, scheme): cost[scheme] for site in sites for scheme in SCHEMES})
    model = CostModel(table, trust=Trust(constant=0.05))
    low = [
        Plan.of({site: Scheme.BF16 if site == odd else Scheme.FP32 for site in sites})
        for odd in ("none", *sites[:20])
    ]
    high = Plan.of(dict.fromkeys(sites, Scheme.INT8))
    for plan in (high, *low):
        model = model.observe(plan, table.predict(plan), 0.0)
    assert model.predict(high).mean == pytest.approx(table.predict(high), rel=1e-3)
    assert np.isfinite(model.draw(np.random.default_rng(0)).predict(low[0]))
