"""Guided proposals against random ones, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.pareto import area_gained, hypervolume
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.searching.costing.cost_model import CostModel, Observation, Trust
from autoquant.searching.proposing.guided import CostAxis, Guide
from autoquant.searching.proposing.moves import Options, neighbour_rows, trade_rows

SCHEMES = (Scheme.INT8, Scheme.BF16, Scheme.FP32)
KNOBS = 10
SPACE = SearchSpace(
    (
        *(Knob(f"k{i}", (f"k{i}",), SCHEMES) for i in range(KNOBS)),
        Knob("pinned", ("pinned",), (Scheme.FP32,)),
    )
)


def truth(seed: int) -> tuple[CostTable, CostTable]:
    """Noise and milliseconds of every choice."""
    draw = np.random.default_rng(seed)
    noise: dict[tuple[str, Scheme], float] = {("pinned", Scheme.FP32): 0.0}
    cost: dict[tuple[str, Scheme], float] = {("pinned", Scheme.FP32): 1.0}
    for knob in SPACE.free:
        scale, size = 10 ** draw.uniform(-6, -3), draw.uniform(0.5, 2.0)
        for scheme, share, time in ((SCHEMES[0], 1.0, 0.3), (SCHEMES[1], 0.05, 0.6)):
            noise[knob.name, scheme] = scale * share * draw.lognormal(0, 0.3)
            cost[knob.name, scheme] = size * time * draw.lognormal(0, 0.2)
        noise[knob.name, Scheme.FP32], cost[knob.name, Scheme.FP32] = 1e-13, size
    edges = {
        (f"k{i}", f"k{i + 1}"): {
            (a, b): 0.1 * draw.lognormal(0, 0.3) for a in SCHEMES for b in SCHEMES if a is not b
        }
        for i in range(KNOBS - 1)
    }
    return CostTable(0.0, noise), CostTable(1.0, cost, edges)


def blurred(table: CostTable, seed: int) -> CostTable:
    """What a profile may say of the truth: every term off by a third."""
    draw = np.random.default_rng(seed)
    ops = {key: value * draw.lognormal(0, 0.3) for key, value in table.ops.items()}
    return CostTable(table.constant, ops, table.edges)


def measure(number: int, plan: Plan, noise: CostTable, cost: CostTable) -> Candidate:
    sqnr = -10 * np.log10(noise.predict(plan))
    found = {
        "sqnr_db": Measurement(float(sqnr), Kind.MEASURED, stderr=0.1),
        "speedup": Measurement(20.0 / cost.predict(plan), Kind.MEASURED, stderr=0.02),
    }
    return Candidate(number, plan, "made up", found)


def volume(found: list[Candidate]) -> float:
    losses = np.array([[-c.value("sqnr_db"), -c.value("speedup")] for c in found])
    return hypervolume(losses, np.array([-20.0, -0.5]))


def search(seed: int, *, is_guided: bool, trials: int = 40) -> float:
    noise, cost = truth(seed)
    axis = CostAxis(Objective.LATENCY, CostModel(blurred(cost, seed + 1)), baseline_ms=20.0)
    prior = CostModel(blurred(noise, seed + 2), trust=Trust(0.5, 0.3, 0.0, 0.1))
    guide, draw = Guide(SPACE, prior, axis), np.random.default_rng(seed)
    found: list[Candidate] = []
    for number in range(trials):
        if number < len(SCHEMES):
            plan = SPACE.uniform(SCHEMES[number])
        elif is_guided:
            taken = {item.plan for item in found}
            proposed = guide.propose(draw, (), taken)
            assert proposed is not None
            assert proposed not in taken
            plan = proposed
        else:
            chosen = {k.name: k.schemes[draw.integers(len(k.schemes))] for k in SPACE.knobs}
            plan = SPACE.plan(chosen)
        found.append(measure(number, plan, noise, cost))
        guide.observe(found[-1], is_feasible=True)
    return volume(found)


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_guided_plans_dominate_more_than_random_ones(seed: int) -> None:
    assert search(seed, is_guided=True) > search(seed, is_guided=False, trials=400)


def test_pending_plans_are_not_proposed_again_and_spread_the_round() -> None:
    noise, cost = truth(3)
    guide = Guide(SPACE, CostModel(noise), CostAxis(Objective.LATENCY, CostModel(cost), 20.0))
    for number, scheme in enumerate(SCHEMES):
        guide.observe(measure(number, SPACE.uniform(scheme), noise, cost), is_feasible=True)
    draw, asked = np.random.default_rng(0), list[Plan]()
    for _ in range(8):
        plan = guide.propose(draw, asked, set(asked))
        assert plan is not None
        asked.append(plan)
    assert len(set(asked)) == 8


def test_nothing_is_proposed_before_a_candidate_kept_the_limits() -> None:
    noise, cost = truth(4)
    guide = Guide(SPACE, CostModel(noise), CostAxis(Objective.LATENCY, CostModel(cost), 20.0))
    guide.observe(measure(0, SPACE.uniform(Scheme.INT8), noise, cost), is_feasible=False)
    assert guide.propose(np.random.default_rng(0), (), ()) is None


def test_dense_tables_predict_what_their_table_predicts() -> None:
    _, cost = truth(5)
    options, draw = Options(SPACE), np.random.default_rng(5)
    rows = np.stack([draw.integers(options.counts) for _ in range(50)])
    expected = [cost.predict(options.plan(row)) for row in rows]
    assert options.dense(cost).predict(rows) == pytest.approx(expected)


def test_trades_are_minima_that_no_change_of_one_knob_improves() -> None:
    noise, cost = (Options(SPACE).dense(table) for table in truth(6))
    rows = trade_rows(noise, cost, 8, np.random.default_rng(6))
    assert len(np.unique(rows, axis=0)) > 3
    total = noise.predict(rows), cost.predict(rows)
    for knob in range(KNOBS):
        for option in range(len(SCHEMES)):
            changed = rows.copy()
            changed[:, knob] = option
            better = (noise.predict(changed) < total[0]) & (cost.predict(changed) < total[1])
            assert not better.any()


def test_neighbours_differ_in_one_knob_or_two() -> None:
    options = Options(SPACE)
    start = np.zeros((1, KNOBS), dtype=np.intp)
    moved, origins = neighbour_rows(start, options.counts, 100, np.random.default_rng(7))
    assert set((moved != start[origins]).sum(axis=1)) <= {0, 1, 2}
    assert (moved < options.counts).all()


def test_the_area_that_a_point_gains_is_what_the_hypervolume_grows_by() -> None:
    draw = np.random.default_rng(8)
    frontier, points = draw.random((12, 2)), draw.random((40, 2)) * 1.2
    reference = np.array([1.0, 1.1])
    before = hypervolume(frontier, reference)
    grown = [hypervolume(np.vstack([frontier, point]), reference) - before for point in points]
    assert area_gained(points, frontier, reference) == pytest.approx(grown, abs=1e-12)


def test_draws_scatter_around_the_corrected_costs_as_far_as_the_model_says() -> None:
    _, cost = truth(9)
    model, draw = CostModel(blurred(cost, 1)), np.random.default_rng(9)
    for scheme in SCHEMES:
        plan = SPACE.uniform(scheme)
        model = model.observe(plan, cost.predict(plan), 0.05)
    plan = SPACE.plan({k.name: k.schemes[i % len(k.schemes)] for i, k in enumerate(SPACE.knobs)})
    drawn = np.array([model.draw(draw).predict(plan) for _ in range(2000)])
    prediction = model.predict(plan)
    misfit = model._fit.trust.misfit * model.prior.predict(plan)
    spread = (prediction.stderr**2 - misfit**2) ** 0.5
    # 2,000 draws leave the mean uncertain by spread / 45, the spread itself by 1.6%
    assert drawn.mean() == pytest.approx(prediction.mean, abs=spread / 10)
    assert drawn.std() == pytest.approx(spread, rel=0.08)


def test_sensitivities_are_retaken_around_the_cheapest_feasible_plan_twice_at_most() -> None:
    noise, cost = truth(11)
    asked: list[Plan] = []

    def retake(plan: Plan) -> list[Observation]:
        asked.append(plan)
        return [Observation(Plan.of(SPACE.choices(plan)), noise.predict(plan), 1e-9)]

    axis = CostAxis(Objective.LATENCY, CostModel(cost), 20.0)
    guide, draw = Guide(SPACE, CostModel(noise), axis, retake), np.random.default_rng(0)
    speeds = [(Scheme.INT8, False), (Scheme.FP32, True), (Scheme.BF16, True)]
    for number, (scheme, is_feasible) in enumerate(speeds):
        candidate = measure(number, SPACE.uniform(scheme), noise, cost)
        guide.observe(candidate, is_feasible=is_feasible)
        guide.propose(draw, (), ())
        guide.propose(draw, (), ())
    assert asked == [SPACE.uniform(Scheme.FP32), SPACE.uniform(Scheme.BF16)]
    cheap = {**SPACE.choices(SPACE.uniform(Scheme.BF16)), "k0": Scheme.INT8}
    guide.observe(measure(3, SPACE.plan(cheap), noise, cost), is_feasible=True)
    guide.propose(draw, (), ())
    assert len(asked) == 2
