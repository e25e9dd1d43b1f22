"""What ops and boundaries cost on the target, timed as latency is measured."""

from __future__ import annotations

import time

from autoquant.backends.torch_cpu.profile import Profile, profile_costs
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics
from autoquant.evaluate.evaluator import (
    MeasurementSettings,
    build_backend,
    latency_inputs,
    with_threads,
)
from autoquant.model.capture import Capture
from autoquant.model.subject import Subject


def profile_latency(
    subject: Subject,
    captured: Capture,
    statistics: CalibrationStatistics,
    settings: MeasurementSettings,
    space: SearchSpace,
) -> Profile:
    """Profile a space on the engine, batch size and threads of a job.

    Raises:
        BackendError: No plan of the space can be built.
    """
    backend = build_backend(subject, captured, statistics, settings)
    inputs = latency_inputs(subject, settings.latency_batch)
    # with one thread, its own time leaves out what other processes take
    clock = time.thread_time if settings.latency_threads == 1 else time.perf_counter
    with with_threads(settings.latency_threads):
        return profile_costs(captured, backend, space, subject.model, inputs, clock=clock)
