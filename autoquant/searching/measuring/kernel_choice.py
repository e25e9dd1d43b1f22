"""`engine: per-op`: the faster kernel of each op, timed in this model at this batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.kernels import choose_kernels, kernels_of
from autoquant.backends.torch_cpu.target import site_support
from autoquant.core.evaluation import Phase, Task
from autoquant.core.kernels import Kernels
from autoquant.core.measurement import Measurement
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import BackendError
from autoquant.model.graph.capture import Capture
from autoquant.model.subject import Subject
from autoquant.searching.measuring.clocks import clock_of
from autoquant.searching.measuring.evaluator import (
    MeasurementSettings,
    build_evaluator,
    build_request,
    latency_inputs,
    with_threads,
)
from autoquant.searching.measuring.native_plan import native_plan

MIXED = "per op"


@dataclass(frozen=True, slots=True, eq=False)
class TimedKernels:
    """What was chosen, and what it was chosen from.

    Attributes:
        kernels: The fastest choice.
        speedups: Of the all-int8 plan over eager fp32, fastest first: by engine, and `per op`.
    """

    kernels: Kernels
    speedups: Mapping[str, Measurement]


def time_kernels(
    subject: Subject,
    captured: Capture,
    statistics: CalibrationStatistics,
    settings: MeasurementSettings,
    spaces: Mapping[str, SearchSpace],
) -> TimedKernels:
    """Profile the model on each engine, choose a kernel for every op, and time the choice.

    The all-int8 plan with the chosen kernels must beat the same plan on either engine alone: what
    ops take in two profiles does not tell what they take beside one another.

    Args:
        subject: Model and data.
        captured: The captured model.
        statistics: Of its tensors.
        settings: How latency is measured; its engine converts the model.
        spaces: By engine, what it can run.

    Raises:
        BackendError: An engine can build no plan, or none runs the all-int8 plan.
    """
    profiles = {}
    inputs = latency_inputs(subject, settings.latency_batch)
    for engine, space in spaces.items():
        request = build_request(subject, captured, statistics, settings.building(engine=engine))
        backend = TorchGraphBackend(request)
        with with_threads(settings.latency_threads):
            clock = clock_of(partial(backend.run, subject.flat, inputs), settings.latency_threads)
            profiles[engine] = backend.profile(space, inputs, clock)
    options = {engine: kernels_of(engine, captured.sites) for engine in spaces}
    options[MIXED] = choose_kernels(profiles, captured.sites)
    task = Task(0, native_plan(Scheme.INT8, captured.sites, partial(site_support, settings.build)))
    found: dict[str, Measurement] = {}
    for name, kernels in options.items():
        evaluator = build_evaluator(
            subject, captured, statistics, settings.building(kernels=kernels)
        )
        outcome = evaluator.run(Phase.LATENCY, task)
        if outcome.failure is None:
            found[name] = outcome.measurements["speedup"]
    if not found:
        raise BackendError(
            "backend.engine: per-op: no engine runs this model in int8",
            hint="name an engine, and pin the op that it refuses to fp32",
        )
    ranked = dict(sorted(found.items(), key=lambda item: -item[1].value))
    return TimedKernels(options[next(iter(ranked))], ranked)
