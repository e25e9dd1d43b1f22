"""`engine: auto`: the fastest engine for this model and batch size, measured."""

from __future__ import annotations

from dataclasses import replace

from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.core.evaluation import Phase, Task
from autoquant.core.measurement import Measurement
from autoquant.core.precision import Scheme
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import BackendError
from autoquant.model.graph.capture import Capture
from autoquant.model.subject import Subject
from autoquant.searching.measuring.evaluator import (
    MeasurementSettings,
    PlanEvaluator,
    build_backend,
)
from autoquant.searching.measuring.native_plan import native_plan

_PAIRS = 7
"""Enough to tell engines apart: they differ by tens of percent."""


def time_engines(
    subject: Subject,
    captured: Capture,
    statistics: CalibrationStatistics,
    settings: MeasurementSettings,
) -> dict[str, Measurement]:
    """Measure the speed-up of the all-int8 plan on every engine that can build it.

    Returns:
        By engine, fastest first.

    Raises:
        BackendError: No engine runs the model in int8.
    """
    few = min(settings.latency_pairs, _PAIRS)
    found: dict[str, Measurement] = {}
    reasons: list[str] = []
    for engine in engines_here():
        own = replace(settings.building(engine=engine), latency_pairs=few)
        backend = build_backend(subject, captured, statistics, own)
        evaluator = PlanEvaluator(subject, captured, backend, own)
        plan = native_plan(Scheme.INT8, captured.sites, backend.support)
        outcome = evaluator.run(Phase.LATENCY, Task(0, plan))
        if outcome.failure is None:
            found[engine] = outcome.measurements["speedup"]
        else:
            reasons.append(outcome.failure.reason)
    if not found:
        raise BackendError(
            f"backend.engine: auto: no engine runs this model in int8: {reasons[0]}",
            hint="name an engine, and pin the op that it refuses to fp32",
        )
    return dict(sorted(found.items(), key=lambda item: -item[1].value))
