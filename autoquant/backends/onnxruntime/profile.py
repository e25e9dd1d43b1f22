"""What each choice costs: a few plans, timed whole, and divided as the engine's profiler says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from autoquant.backends.boundaries import Parts
from autoquant.backends.cover import Cover
from autoquant.backends.onnxruntime.attribution import attribute
from autoquant.backends.onnxruntime.node_times import ProfiledSession
from autoquant.backends.onnxruntime.sessions import OnnxModule, open_and_dump
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.timing import Clock, bundle_size, seconds_of
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.model.graph.capture import Capture

_ROUNDS = 5
_SHORTEST_S = 5e-3


class Source(Protocol):
    """What a profile needs of the backend: `units` are those of its float graph."""

    captured: Capture
    units: tuple[Unit, ...]

    def write(self, plan: Plan) -> ModelProto:
        """Write a plan's graph."""

    def passing(self) -> dict[str, str]:
        """By node of the float graph that is no site, the site whose format it hands on."""


@dataclass(slots=True, eq=False)
class _Subject:
    """A plan while it is timed."""

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
) -> CostTable:
    """Time a few plans, and fit the cost of every op and boundary to them.

    Each plan is timed whole, as a user calls it; the profiler, which slows a session down, only
    says how to divide that among the nodes. Call it as latency is measured: with its threads and
    its batch.

    Raises:
        BackendError: No plan of the space can be built.
    """
    cover = Cover.of(source.captured, space)
    subjects = cover.build(partial(_open, source, inputs, clock))
    for _ in range(_ROUNDS):
        for subject in subjects.values():
            call = partial(subject.module, *inputs)
            subject.times_ms.append(1e3 * seconds_of(call, subject.calls, clock))
            for _ in range(subject.calls):
                subject.profiled.call()
    passing = source.passing()
    return cover.fit({plan: _divide(item, source, passing) for plan, item in subjects.items()})


def _open(source: Source, inputs: tuple[Tensor, ...], clock: Clock, plan: Plan) -> _Subject:
    """Build a plan, and warm it up."""
    model = source.write(plan).SerializeToString()
    session, dump = open_and_dump(model, torch.get_num_threads())
    profiled = ProfiledSession(model, inputs)
    calls = bundle_size(partial(seconds_of, profiled.call, 1, clock), _SHORTEST_S)
    return _Subject(dump, OnnxModule(model, None, session), profiled, calls, [])


def _divide(subject: _Subject, source: Source, passing: dict[str, str]) -> Parts:
    """Divide the time of a plan among sites and boundaries, in proportion to its nodes' times."""
    times = subject.profiled.finish()
    parts = attribute(subject.dump, times, source.units, passing)
    return parts.times(float(np.median(subject.times_ms)) / max(parts.total, 1e-9))
