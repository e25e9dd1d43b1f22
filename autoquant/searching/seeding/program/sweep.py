"""The frontier of the additive model: least output noise for a sweep of cost budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace
from autoquant.errors import PlanError
from autoquant.searching.seeding.program.additive import (
    Floats,
    Limit,
    Losses,
    Mask,
    Program,
    build_program,
)
from autoquant.searching.seeding.program.optimum import Minimum, minimize

POINTS = 20
_SOLVES_PER_POINT = 2
_NARROWEST = 1e-3
_SAME = 1e-9
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class ProgramPoint:
    """A plan of the additive model's frontier.

    Attributes:
        plan: Over sites.
        loss: Sum of its knobs' losses.
        cost: What the cost table predicts.
        gap: No plan of at most this cost has a loss below `loss * (1 - gap)`.
    """

    plan: Plan
    loss: float
    cost: float
    gap: float


@dataclass(frozen=True, slots=True)
class _Interval:
    """A stretch of budgets between two known points in which no plan is known."""

    low: float
    high: float
    loss_before: float
    loss_after: float


def sweep_frontier(
    space: SearchSpace,
    losses: Losses,
    costs: CostTable,
    limits: Sequence[Limit] = (),
    *,
    points: int = POINTS,
) -> tuple[ProgramPoint, ...]:
    """Find plans of least loss for budgets between the cheapest plan and the least noisy one.

    Budgets halve the widest stretch between known plans, width counted in cost and in decades of
    loss, so that plans end up evenly spread over both. Of plans with equal loss the cheapest is
    taken; plans that another beats are left out.

    Args:
        space: The search space; a pinned knob has one scheme.
        losses: Additive loss of each knob and scheme (`SensitivityTable.losses`).
        costs: Additive costs over sites.
        limits: What every plan must keep; costs over sites.
        points: How many plans at most.

    Returns:
        Plans, cheapest first, their losses falling.

    Raises:
        PlanError: No plan keeps the limits; names the first that cannot be kept.
    """
    by_knob = [Limit(item.name, item.costs.by_knob(space), item.bound) for item in limits]
    program = build_program(space, losses, costs.by_knob(space), by_knob)
    first, last = _cheapest(program), _least_noisy(program)
    found = [first]
    if last.cost > first.cost and last.loss < first.loss:
        found += [*_between(program, first, last, points - 2), last]
    return tuple(_undominated(found))


def cheapest_choices(
    space: SearchSpace, costs: CostTable, limits: Sequence[Limit] = ()
) -> dict[str, Scheme] | None:
    """Find the cheapest plan within limits, as the scheme of each knob; None: there is none."""
    program = build_program(space, {}, costs, limits)
    room = _room(program)
    found = minimize(program, program.costs[0], program.costs[1:], room[1:])
    return None if found is None else found.choices


def _solve(program: Program, budget: float, guess: float | None = None) -> ProgramPoint | None:
    """Least loss within a budget, then the least cost at which no knob loses more."""
    room = _room(program, budget)
    least = minimize(program, program.losses, program.costs, room, guess=guess)
    if least is None:
        return None
    cheapest = minimize(
        program, program.costs[0], program.costs, room, allowed=_no_noisier(program, least)
    )
    return _measure(program, cheapest or least, least.gap)


def _no_noisier(program: Program, found: Minimum) -> Mask:
    """Columns whose loss is at most that of what the same knob takes in a plan."""
    mask = np.ones(len(program.losses), dtype=np.bool_)
    option_count = len(program.options)
    taken = {
        program.options[i][0]: program.losses[i]
        for i in np.flatnonzero(found.columns[:option_count])
    }
    mask[:option_count] = [
        loss <= taken[knob]
        for (knob, _), loss in zip(program.options, program.losses, strict=False)
    ]
    return mask


def _measure(program: Program, found: Minimum, gap: float) -> ProgramPoint:
    loss = float(program.losses @ found.columns)
    cost = float(program.costs[0] @ found.columns + program.constants[0])
    return ProgramPoint(program.space.plan(found.choices), loss, cost, gap)


def _room(program: Program, budget: float = math.inf) -> Floats:
    """Bounds of the rows without what every plan has."""
    bounds = program.bounds
    bounds[0] = budget
    return np.asarray(bounds - program.constants)


def _cheapest(program: Program) -> ProgramPoint:
    """The cheapest plan; of equal ones the least noisy."""
    found = minimize(program, program.costs[0], program.costs, _room(program))
    if found is None:
        raise _unkept(program)
    cost = found.value + program.constants[0]
    best = minimize(
        program, program.losses, program.costs, _room(program, cost + _SAME * abs(cost))
    )
    return _measure(program, best or found, found.gap)


def _least_noisy(program: Program) -> ProgramPoint:
    """The least noisy plan; of equal ones the cheapest."""
    point = _solve(program, math.inf)
    if point is None:
        raise _unkept(program)
    return point


def _unkept(program: Program) -> PlanError:
    """Name the first limit that no plan keeps together with those before it."""
    bounds = _room(program)
    for row, limit in enumerate(program.limits, start=1):
        least = minimize(program, program.costs[row], program.costs[1:row], bounds[1:row])
        value = math.inf if least is None else least.value + program.constants[row]
        if value > limit.bound:
            unit = limit.costs.unit
            before = ", ".join(item.name for item in program.limits[: row - 1])
            within = f" within the limits on {before}" if before else ""
            return PlanError(
                f"limit on {limit.name}: {limit.bound:.6g} {unit} is below {value:.6g} {unit}, "
                f"the least that a plan of this space reaches{within}",
                hint="loosen the limit, unpin ops, or allow cheaper schemes",
            )
    return PlanError(
        "no plan keeps all limits together", hint="loosen a limit, or allow more schemes"
    )


def _between(
    program: Program, first: ProgramPoint, last: ProgramPoint, count: int
) -> list[ProgramPoint]:
    """Plans between two, by halving the widest stretch of budgets."""
    least = float(program.losses[program.losses > 0].min(initial=np.inf))
    decades = math.log10(max(first.loss, least) / max(last.loss, least)) or 1.0
    span = last.cost - first.cost

    def width(item: _Interval) -> float:
        if item.high - item.low < _NARROWEST * span:
            return 0.0
        losses = max(item.loss_before, least), max(item.loss_after, least)
        return (item.high - item.low) / span + math.log10(losses[0] / losses[1]) / decades

    found: list[ProgramPoint] = []
    open_ = [_Interval(first.cost, last.cost, first.loss, last.loss)]
    for _ in range(_SOLVES_PER_POINT * count):
        widest = max(open_, key=width)
        if len(found) == count or width(widest) == 0.0:
            break
        open_.remove(widest)
        budget = (widest.low + widest.high) / 2
        guess = math.sqrt(max(widest.loss_before, least) * max(widest.loss_after, least))
        point = _solve(program, budget, guess)
        if point is None or point.loss >= widest.loss_before * (1 - _SLACK):
            open_.append(_Interval(budget, widest.high, widest.loss_before, widest.loss_after))
            continue
        found.append(point)
        open_.append(_Interval(widest.low, point.cost, widest.loss_before, point.loss))
        open_.append(_Interval(budget, widest.high, point.loss, widest.loss_after))
    return found


def _undominated(points: Sequence[ProgramPoint]) -> list[ProgramPoint]:
    """Points of falling loss, cheapest first."""
    kept: list[ProgramPoint] = []
    for point in sorted(points, key=lambda item: (item.cost, item.loss)):
        if not kept or point.loss < kept[-1].loss:
            kept.append(point)
    return kept
