"""A sensitivity table at the price that the user chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

from torch import nn

from autoquant.backends.protocol import Backend
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Procedure, RowKey, SensitivityRow, SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.data.batches import take_samples
from autoquant.model.graph.captured import Capture
from autoquant.searching.ranking.exact import METHOD as EXACT_METHOD
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.gradient import measure_gradient, measure_weights
from autoquant.searching.ranking.on_engine import METHOD as ENGINE_METHOD
from autoquant.searching.ranking.on_engine import engine_trials, measure_on_engine
from autoquant.searching.ranking.trials import Question, Trial

AUTO_METHOD = "to first order by gradient; the rows that make most of the noise exactly"


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What goes in and out while a table is taken.

    Attributes:
        known: Rows that an earlier process measured exactly, for the same question.
        keep: Called with the table as far as it is, whenever a knob's exact rows are there.
        progress: Called with the number of steps done; `count_steps` says how many there are.
        engine: Opens the backend, for the procedure `engine`, and gives it with the float model.
    """

    known: Mapping[RowKey, SensitivityRow]
    keep: Callable[[SensitivityTable], None] = lambda table: None
    progress: Callable[[int], None] = lambda steps: None
    engine: Callable[[], tuple[Backend, nn.Module]] | None = None


def measure_sensitivity(
    procedure: Procedure, question: Question, course: Course
) -> SensitivityTable:
    """Take the table by a procedure."""
    return _PROCEDURES[procedure](question, course)


def settle_procedure(procedure: Procedure, captured: Capture) -> Procedure:
    """The procedure that takes a table: on the engine, where there are no reference numerics."""
    return procedure if captured.how == "export" else Procedure.ENGINE


def count_steps(procedure: Procedure, question: Question) -> int:
    """How many steps a procedure reports: samples probed, and rows measured exactly."""
    samples = sum(len(batch) for batch in take_samples(question.batches, question.samples))
    is_probing = procedure in (Procedure.AUTO, Procedure.GRADIENT)
    return count_exact_rows(procedure, question) + (samples if is_probing else 0)


def count_exact_rows(procedure: Procedure, question: Question) -> int:
    """How many rows a procedure measures exactly, at most."""
    if procedure is Procedure.ENGINE:
        return len(engine_trials(question))
    rows = len(question.trials())
    if procedure is Procedure.EXACT:
        return rows
    return most_exact_rows(rows) if procedure is Procedure.AUTO else 0


def _auto(question: Question, course: Course) -> SensitivityTable:
    table = replace(_gradient(question, course), method=AUTO_METHOD)
    trials = rows_that_matter(question.space, question.trials(), table)
    exact = _measure_exactly(question, trials, course, table)
    rows = exact.by_key
    return replace(table, rows=tuple(rows.get(row.key, row) for row in table.rows))


def _exact(question: Question, course: Course) -> SensitivityTable:
    empty = SensitivityTable((), EXACT_METHOD, question.samples)
    return _measure_exactly(question, question.trials(), course, empty)


def _gradient(question: Question, course: Course) -> SensitivityTable:
    return measure_gradient(question, progress=course.progress)


def _on_engine(question: Question, course: Course) -> SensitivityTable:
    if course.engine is None:
        raise ValueError("the procedure engine needs a backend")
    rows = dict(course.known)

    def keep(found: Sequence[SensitivityRow]) -> None:
        rows.update({row.key: row for row in found})
        course.keep(SensitivityTable(tuple(rows.values()), ENGINE_METHOD, question.samples))

    backend, model = course.engine()
    return measure_on_engine(
        question, backend, model, known=dict(rows), keep=keep, progress=course.progress
    )


def _measure_exactly(
    question: Question, trials: Sequence[Trial], course: Course, start: SensitivityTable
) -> SensitivityTable:
    """Measure some rows; what is kept on the way are `start` and the exact rows so far."""
    rows = dict(course.known)

    def keep(found: Sequence[SensitivityRow]) -> None:
        rows.update({row.key: row for row in found})
        merged = {**start.by_key, **rows}
        kept = tuple(merged[trial.key] for trial in question.trials() if trial.key in merged)
        course.keep(replace(start, rows=kept))

    return measure_exact(
        question, trials=trials, known=dict(rows), keep=keep, progress=course.progress
    )


_PROCEDURES: Mapping[Procedure, Callable[[Question, Course], SensitivityTable]] = {
    Procedure.AUTO: _auto,
    Procedure.GRADIENT: _gradient,
    Procedure.EXACT: _exact,
    Procedure.WEIGHTS_ONLY: lambda question, _: measure_weights(question),
    Procedure.ENGINE: _on_engine,
}


NOISE_SHARE = 0.9
ROW_SHARE = 1 / 3


def most_exact_rows(row_count: int) -> int:
    """How many of so many rows may be measured exactly."""
    return floor(row_count * ROW_SHARE)


def rows_that_matter(
    space: SearchSpace, trials: Sequence[Trial], table: SensitivityTable
) -> tuple[Trial, ...]:
    """Choose the rows worth measuring exactly: all of the knobs that make most of the noise.

    The smallest set of knobs whose rows hold 90% of the summed noise of the cheapest scheme, but
    no more than a third of all rows. Most noise first.
    """
    noise = _noise_of_cheapest(space, table)
    limit = most_exact_rows(len(trials))
    wanted = NOISE_SHARE * sum(noise.values())
    chosen: list[Trial] = []
    covered = 0.0
    for knob in sorted(space.free, key=lambda knob: -noise[knob]):
        rows = [trial for trial in trials if trial.knob is knob]
        if covered >= wanted or len(chosen) + len(rows) > limit:
            break
        covered += noise[knob]
        chosen += rows
    return tuple(chosen)


def _noise_of_cheapest(space: SearchSpace, table: SensitivityTable) -> Mapping[Knob, float]:
    """Noise of each free knob under the cheapest scheme, or under the cheapest that it allows."""
    losses = table.losses()

    def noise(knob: Knob) -> float:
        cheapest = space.schemes[0] if space.schemes[0] in knob.schemes else knob.schemes[0]
        return 0.0 if cheapest is Scheme.FP32 else losses.get((knob.name, cheapest), 0.0)

    return {knob: noise(knob) for knob in space.free}
