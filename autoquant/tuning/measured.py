"""Measures plans for tuning, each once: what was measured before is read from disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from autoquant.core.evaluation import IsOver, Outcome, Phase, Task, never
from autoquant.core.json_values import json_of
from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan
from autoquant.job import DataSource
from autoquant.model.calibration.calibrate import digest_of
from autoquant.model.data.data_set import InputsOf
from autoquant.results.measured_plans import EvaluatedPlans
from autoquant.searching.measuring.workers.local import run_safely
from autoquant.searching.preparing.preparation import Preparation

_NUMERICS = 1
"""Raise it when the same plan gets other measurements: kept ones are then not used again."""


class PlanMeasurer:
    """An `Executor` in this process that remembers on disk."""

    def __init__(self, prepared: Preparation, kept: EvaluatedPlans) -> None:
        self._prepared = prepared
        self._kept = kept

    def measure(self, plan: Plan, origin: str) -> Candidate:
        """Measure the quality of a plan on all evaluation samples."""
        known = self._kept.get(plan)
        if known is not None and known.stopped is None:
            return known
        return self._measure(Task(0, plan), origin)

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        """Measure the plans of a search; one that was stopped before is not begun again."""
        if phase is not Phase.QUALITY:
            raise ValueError(f"tuning measures quality alone, not {phase.value}")
        for task in tasks:
            if is_over():
                return
            found = self._kept.get(task.plan) or self._measure(task, "tune")
            yield Outcome(
                task.number,
                found.measurements,
                failure=found.failure,
                stopped=found.stopped,
                seconds=found.seconds,
                executed=found.executed,
            )

    def close(self) -> None:
        """Nothing to stop."""

    def score_heldout(self, candidate: Candidate) -> Candidate:
        """Add what a plan does on held-out data; what fails there adds nothing."""
        if self._prepared.subject.heldout is None:
            return candidate
        if "heldout_accuracy_drop" in candidate.measurements:
            return candidate
        outcome = run_safely(self._prepared.evaluator, Phase.HELDOUT, Task(0, candidate.plan))
        measured = {**candidate.measurements, **outcome.measurements}
        return self._kept.keep(replace(candidate, measurements=measured))

    def _measure(self, task: Task, origin: str) -> Candidate:
        outcome = run_safely(self._prepared.evaluator, Phase.QUALITY, task)
        candidate = Candidate(
            0,
            task.plan,
            origin,
            measurements=outcome.measurements,
            failure=outcome.failure,
            stopped=outcome.stopped,
            seconds=outcome.seconds,
            executed=outcome.executed,
        )
        return self._kept.keep(candidate)


def fingerprint(prepared: Preparation, source: DataSource | None) -> str:
    """Hash everything that a plan's quality depends on: sixteen hex digits."""
    subject = prepared.subject
    batches = chain(InputsOf(subject.evaluation), InputsOf(subject.heldout or ()))
    metric = subject.metric
    content = (
        _NUMERICS,
        digest_of(prepared.captured.graph.state_dict().values(), batches),
        str(prepared.captured.graph.code),
        prepared.statistics.digest,
        json_of(prepared.settings.build),
        f"{getattr(metric, '__module__', '')}.{getattr(metric, '__qualname__', type(metric))}",
        None if source is None else source.model_dump(mode="json"),
    )
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
