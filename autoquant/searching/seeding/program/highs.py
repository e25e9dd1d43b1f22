"""One linear or integer program, in a unit of its own, given to HiGHS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoquant.backends.printing import STDOUT, captured_prints
from autoquant.errors import PlanError
from autoquant.searching.seeding.program.additive import Floats, Mask, Program

GAP = 1e-4
"""A minimum is proven to within this share of its value."""

SECONDS = 60.0
"""After this long one program is given up; the best plan so far is taken, with its own gap."""

CEILING = 100.0
"""Coefficients of the objective are cut at so many units, which changes no plan below that."""

_INFEASIBLE = 2
_CUT_OFF = 1


@dataclass(frozen=True, eq=False)
class Problem:
    """What to minimize over a program's columns, and within what.

    Attributes:
        program: How the columns hang together.
        objective: Shape (columns,).
        rows: Shape (n, columns), each at most its bound; about 1 at their largest.
        bounds: Shape (n,), finite.
        allowed: Shape (columns,): False for columns that stay 0.
    """

    program: Program
    objective: Floats
    rows: Floats
    bounds: Floats
    allowed: Mask


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Solution of the linear relaxation, in units of `scale`.

    Attributes:
        objective: What was minimized.
        scale: The unit.
        bound: No plan has less.
        reduced: Shape (columns,): no plan that takes a column has less than `bound` plus this.
    """

    objective: Floats
    scale: float
    bound: float
    reduced: Floats


@dataclass(frozen=True, slots=True)
class Branched:
    """Solution of the integer program, in the relaxation's units.

    Attributes:
        columns: The best plan.
        value: Its objective.
        bound: None of the columns given has less.
        is_cut_off: Whether the time was up before value and bound met.
    """

    columns: Floats
    value: float
    bound: float
    is_cut_off: bool


def relax(problem: Problem, scale: float) -> Relaxation | None:
    """Solve the linear relaxation; None where it has no solution.

    Raises:
        PlanError: HiGHS gave up.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    objective = np.minimum(problem.objective / scale, CEILING)
    found = linprog(
        objective,
        A_ub=sparse.csr_matrix(problem.rows) if len(problem.rows) else None,
        b_ub=problem.bounds if len(problem.rows) else None,
        A_eq=problem.program.equalities,
        b_eq=problem.program.targets,
        bounds=np.stack([np.zeros(len(objective)), problem.allowed.astype(float)], axis=1),
        method="highs",
    )
    if found.status == _INFEASIBLE:
        return None
    _check_solved(found.status, found.message)
    return Relaxation(objective, scale, float(found.fun), found.lower.marginals)


def branch(problem: Problem, relaxed: Relaxation, kept: Mask) -> Branched | None:
    """Solve the integer program over some of the columns; None where they hold no plan.

    Raises:
        PlanError: HiGHS gave up without a plan.
    """
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    whole = np.zeros(len(kept))
    whole[: len(problem.program.options)] = 1
    targets = problem.program.targets
    constraints = [LinearConstraint(problem.program.equalities, targets, targets)]
    if len(problem.rows):
        rows = sparse.csr_matrix(problem.rows)
        constraints.append(LinearConstraint(rows, -np.inf, problem.bounds))
    with captured_prints(STDOUT):  # https://github.com/jump-dev/HiGHS.jl/issues/312
        found = milp(
            np.where(kept, relaxed.objective, 0.0),
            integrality=whole,
            bounds=Bounds(0.0, kept.astype(float)),
            constraints=constraints,
            options={"mip_rel_gap": GAP, "time_limit": SECONDS},
        )
    if found.status == _INFEASIBLE:
        return None
    if found.x is None:
        _check_solved(found.status, found.message)
    is_cut_off = found.status == _CUT_OFF
    return Branched(found.x, float(found.fun), float(found.mip_dual_bound), is_cut_off)


def _check_solved(status: int, message: str) -> None:
    if status != 0:
        raise PlanError(
            f"the integer program of the additive model was not solved: {message}",
            hint="make it smaller: space.grouping: block, fewer schemes, or pins",
        )
