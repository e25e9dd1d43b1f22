"""Sensitivity on the engine itself: one knob and scheme at a time, built and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from autoquant.backends.protocol import Backend
from autoquant.core.plan import Plan
from autoquant.core.sensitivity import Method, Part, RowKey, SensitivityRow, SensitivityTable
from autoquant.core.space import SearchSpace
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.output_noise import to_decibels
from autoquant.model.data.outputs import OutputWeights
from autoquant.searching.ranking.output_error import FloatOutputs, OutputError
from autoquant.searching.ranking.trials import Question, Trial, by_knob

METHOD = "one knob at a time, built and run by the engine"


def measure_on_engine(
    question: Question,
    backend: Backend,
    model: nn.Module,
    *,
    known: Mapping[RowKey, SensitivityRow] | None = None,
    keep: Callable[[Sequence[SensitivityRow]], None] = lambda rows: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> SensitivityTable:
    """Measure the output error that each knob and scheme causes alone, by the engine's kernels.

    Needs no graph and no reference numerics, but a build and a run for every row; weights and
    activations cannot be told apart. Where a knob has no fp32, it has its most precise scheme in
    every other row, and the noise of that plan is taken off.

    Raises:
        BackendError: The engine refuses a scheme that it says it supports; names the op.
    """
    batches = take_samples(question.batches, question.samples)
    expected = [FloatOutputs(backend.run(model, b.inputs), b) for b in batches]
    course = _Course(backend, batches, expected, question.outputs)
    base = precise_plan(question.space)
    choices = question.space.choices(base)
    rows = dict(known or {})
    base_noise = course.noise(base)
    trials = engine_trials(question)
    for wanted in by_knob(trials).values():
        found = []
        for trial in wanted:
            if trial.key not in rows:
                plan = question.space.plan({**choices, trial.knob.name: trial.scheme})
                found.append(_less(course.row(plan, trial), base_noise))
            progress(1)
        rows.update({row.key: row for row in found})
        if found:
            keep(found)
    return SensitivityTable(
        rows=tuple(rows[trial.key] for trial in trials),
        method=f"{METHOD} ({backend.name})",
        samples=sum(len(batch) for batch in batches),
    )


def engine_trials(question: Question) -> tuple[Trial, ...]:
    """The rows that an engine can measure: every knob and scheme, as a whole."""
    return tuple(trial for trial in question.trials() if trial.part is Part.BOTH)


def precise_plan(space: SearchSpace) -> Plan:
    """Every knob in its most precise scheme: fp32, where it is allowed."""
    return space.plan({knob.name: knob.schemes[-1] for knob in space.knobs})


class _Course:
    """Builds plans and sums their output errors over the same batches."""

    def __init__(
        self,
        backend: Backend,
        batches: Sequence[Batch],
        expected: Sequence[FloatOutputs],
        weights: OutputWeights,
    ) -> None:
        self._weights = weights
        self._backend = backend
        self._batches = batches
        self._expected = expected

    def row(self, plan: Plan, trial: Trial) -> SensitivityRow:
        """Measure one row."""
        return self._sums(plan).finish(trial)

    def noise(self, plan: Plan) -> float:
        """Noise-to-signal ratio of a plan."""
        return self._sums(plan).noise()[0]

    def _sums(self, plan: Plan) -> OutputError:
        sums = OutputError(self._weights)
        module = self._backend.build(plan).module
        for batch, expected in zip(self._batches, self._expected, strict=True):
            sums.add(expected, self._backend.run(module, batch.inputs))
        return sums


def _less(row: SensitivityRow, base_noise: float) -> SensitivityRow:
    """Take off what other knobs cause."""
    noise = max(row.noise - base_noise, 0.0)
    return replace(row, noise=noise, sqnr_db=to_decibels(noise), method=Method.ENGINE)
