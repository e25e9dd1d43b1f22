"""`engine: per-op`: the faster kernel of each op, timed in this model at this batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autoquant.backends.torch_cpu.kernels import choose_kernels
from autoquant.core.kernels import Kernels
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics
from autoquant.evaluate.cost_profile import profile_latency
from autoquant.evaluate.evaluator import MeasurementSettings
from autoquant.model.capture import Capture
from autoquant.model.subject import Subject


def time_kernels(
    subject: Subject,
    captured: Capture,
    statistics: CalibrationStatistics,
    settings: MeasurementSettings,
    spaces: Mapping[str, SearchSpace],
) -> Kernels:
    """Profile the model on each engine, and choose a kernel for every op and scheme.

    Args:
        subject: Model and data.
        captured: The captured model.
        statistics: Of its tensors.
        settings: How latency is measured; the engine is replaced.
        spaces: By engine, what it can run.

    Raises:
        BackendError: An engine can build no plan.
    """
    profiles = {
        engine: profile_latency(
            subject, captured, statistics, replace(settings, engine=engine), space
        )
        for engine, space in spaces.items()
    }
    return choose_kernels(profiles, captured.sites)
