"""What each choice costs: a few plans, timed whole, and divided as the engine's profiler says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from autoquant.backends.boundaries import Parts, find_edges
from autoquant.backends.cost_fit import TimedPlan, fit_costs
from autoquant.backends.covering import covering_plans
from autoquant.backends.onnxruntime.attribution import attribute
from autoquant.backends.onnxruntime.node_times import ProfiledSession
from autoquant.backends.onnxruntime.sessions import OnnxModule, open_and_dump
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.timing import Clock, bundle_size, seconds_of
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.model.graph.capture import Capture

_SHORTEST_S = 5e-3


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """How much a profile may cost.

    Attributes:
        rounds: Interleaved repetitions.
        least_plans: Mixed plans to time at least, beside the uniform ones.
        most_plans: Mixed plans to stop at, though some boundary was not seen.
        seed: Of the mixed plans.
    """

    rounds: int = 5
    least_plans: int = 12
    most_plans: int = 32
    seed: int = 0


class Source(Protocol):
    """What a profile needs of the backend.

    Attributes:
        captured: The captured model.
        units: Of its float graph.
    """

    captured: Capture
    units: tuple[Unit, ...]

    def write(self, plan: Plan) -> ModelProto:
        """Write a plan's graph."""

    def passing(self) -> dict[str, str]:
        """By node of the float graph that is no site, the site whose format it hands on."""


@dataclass(slots=True, eq=False)
class _Subject:
    """A plan while it is timed."""

    plan: Plan
    dump: ModelProto
    module: OnnxModule
    profiled: ProfiledSession
    calls: int
    times_ms: list[float]


def profile_costs(
    source: Source,
    space: SearchSpace,
    inputs: tuple[Tensor, ...],
    clock: Clock,
    settings: ProfileSettings | None = None,
) -> CostTable:
    """Time a few plans, and fit the cost of every op and boundary to them.

    Each plan is timed whole, as a user calls it; the profiler, which slows a session down, only
    says how to divide that among the nodes. Call it as latency is measured: with its threads and
    its batch.

    Args:
        source: The backend.
        space: What may be chosen.
        inputs: The batch of the latency measurement.
        clock: Seconds.
        settings: How much to time.

    Raises:
        BackendError: No plan of the space can be built.
    """
    settings = settings or ProfileSettings()
    edges = find_edges(source.captured)
    plans = covering_plans(
        space,
        edges,
        random.Random(settings.seed),
        least=settings.least_plans,
        most=settings.most_plans,
    )
    subjects = list(_open(source, plans, inputs, clock))
    for _ in range(settings.rounds):
        for subject in subjects:
            call = partial(subject.module, *inputs)
            subject.times_ms.append(1e3 * seconds_of(call, subject.calls, clock))
            for _ in range(subject.calls):
                subject.profiled.call()
    passing = source.passing()
    timed = [TimedPlan(item.plan, _divide(item, source, passing)) for item in subjects]
    elements = {site.name: site.output_elements for site in source.captured.sites}
    return fit_costs(timed, space, edges, elements)


def _open(
    source: Source,
    plans: tuple[Plan, ...],
    inputs: tuple[Tensor, ...],
    clock: Clock,
) -> Iterator[_Subject]:
    """Build the plans that the engine takes."""
    refusals: list[BackendError] = []
    for plan in plans:
        try:
            model = source.write(plan).SerializeToString()
            session, dump = open_and_dump(model, torch.get_num_threads())
            profiled = ProfiledSession(model, inputs)
        except BackendError as error:
            refusals.append(error)
            continue
        module = OnnxModule(model, None, session)
        calls = bundle_size(partial(seconds_of, profiled.call, 1, clock), _SHORTEST_S)
        yield _Subject(plan, dump, module, profiled, calls, [])
    if len(refusals) == len(plans):
        raise refusals[0]


def _divide(subject: _Subject, source: Source, passing: dict[str, str]) -> Parts:
    """Divide the time of a plan among sites and boundaries, in proportion to its nodes' times."""
    times = subject.profiled.finish()
    parts = attribute(subject.dump, times, source.units, passing)
    return parts.times(float(np.median(subject.times_ms)) / max(parts.total, 1e-9))
