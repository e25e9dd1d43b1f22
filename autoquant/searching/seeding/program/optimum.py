"""Exact minima of a program: reduced costs of its relaxation leave a small program to branch on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autoquant.core.precision import Scheme
from autoquant.searching.seeding.program.additive import Floats, Mask, Program
from autoquant.searching.seeding.program.highs import (
    CEILING,
    GAP,
    Branched,
    Problem,
    Relaxation,
    branch,
    relax,
)

_RESCALINGS = 12
_SLACK = 1e-9
_TOLERANCE = 2e-6
"""HiGHS keeps rows and whole numbers to 1e-6."""


@dataclass(frozen=True, slots=True)
class Minimum:
    """A plan, and how near the minimum it is proven to be.

    Attributes:
        choices: Scheme of each knob.
        columns: The plan as columns of the program.
        value: What was minimized.
        gap: The true minimum is at least `value * (1 - gap)`.
    """

    choices: dict[str, Scheme]
    columns: Floats
    value: float
    gap: float


def minimize(
    program: Program,
    objective: Floats,
    rows: Floats,
    bounds: Floats,
    *,
    guess: float | None = None,
    allowed: Mask | None = None,
) -> Minimum | None:
    """Find whole columns with the least objective within bounds; None where there are none.

    The linear relaxation gives a lower bound L and reduced costs. Whatever plan takes a column of
    reduced cost r has at least L + r (Dantzig, Fulkerson and Johnson, 1954), so that a plan of
    value U within the columns of r <= U - L is the minimum over all columns. U is guessed near L,
    and raised until the plan found is below it.

    An objective may span twelve decades, a solver's tolerances six: programs are solved in a unit
    near L, and again near the plan's own value where the two are far apart.

    Args:
        program: Says how the columns hang together.
        objective: Shape (columns,).
        rows: Shape (n, columns).
        bounds: Shape (n,): the most of each row; infinite ones are passed over.
        guess: About what the minimum will be; saves a few relaxations.
        allowed: Shape (columns,): which columns to look among; None: all that the program allows.

    Raises:
        PlanError: The solver gave up.
    """
    among = program.allowed if allowed is None else program.allowed & allowed
    bounded = np.isfinite(bounds)
    rows, bounds = rows[bounded], bounds[bounded]
    size = np.maximum(np.abs(rows).max(axis=1, initial=0.0), np.abs(bounds))
    size[size == 0.0] = 1.0
    problem = Problem(program, objective, rows / size[:, None], bounds / size, among)
    limits = problem.bounds
    while True:
        found = _minimize(problem, guess)
        if found is None:
            return None
        excess = problem.rows @ found.columns - limits
        if (excess <= _SLACK).all():
            return found
        tighter = problem.bounds - np.maximum(excess, _TOLERANCE)
        problem = replace(problem, bounds=np.where(excess > _SLACK, tighter, problem.bounds))


def _minimize(problem: Problem, guess: float | None) -> Minimum | None:
    """Solve in units near the bound, then near the value found, until that is about 1."""
    positive = problem.objective[problem.allowed & (problem.objective > 0.0)]
    least = float(positive.min()) if len(positive) else 1.0
    largest = float(positive.max()) if len(positive) else 1.0
    relaxed = _relax_near_bound(problem, largest if guess is None else max(guess, least), least)
    while relaxed is not None:
        found = _branch_near_bound(problem, relaxed)
        if found is None:
            return None
        choices = problem.program.choices(found.columns)
        columns = problem.program.columns(choices)
        value = float(problem.objective @ columns)
        unit = max(abs(value), least)
        if relaxed.scale / CEILING <= unit <= relaxed.scale * CEILING:
            gap = max(found.value - found.bound, 0.0) / max(abs(found.value), 1e-12)
            return Minimum(choices, columns, value, gap)
        relaxed = relax(problem, unit)
    return None


def _relax_near_bound(problem: Problem, scale: float, least: float) -> Relaxation | None:
    """Relax in a unit in which the bound is about 1, or the least coefficient is."""
    relaxed = relax(problem, scale)
    for _ in range(_RESCALINGS):
        if relaxed is None:
            break
        unit = max(abs(relaxed.bound) * relaxed.scale, least)
        if 0.05 * relaxed.scale <= unit <= 20 * relaxed.scale:
            break
        relaxed = relax(problem, unit)
    return relaxed


def _branch_near_bound(problem: Problem, relaxed: Relaxation) -> Branched | None:
    """Branch on the columns that a plan near the bound can take; widen until one is there."""
    share = max(2.0 / len(problem.program.space.knobs), 10 * GAP)
    margin = share * max(abs(relaxed.bound), 0.05)
    while True:
        kept = problem.allowed & (relaxed.reduced <= margin)
        complete = bool((kept == problem.allowed).all())
        above = np.inf if complete else relaxed.bound + margin
        found = branch(problem, relaxed, kept)
        if found is not None and (found.value <= above or found.is_cut_off):
            return replace(found, bound=min(found.bound, above))
        if complete:
            return None
        margin *= 4.0
