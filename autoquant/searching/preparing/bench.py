"""Times plans for a backend that settles what its options leave open."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from autoquant.backends.protocol import Backend, Timed
from autoquant.backends.targets import load_target
from autoquant.backends.timing import Clock
from autoquant.core.backends import is_estimate
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Measurement
from autoquant.core.plan import Plan
from autoquant.core.progress import Progress
from autoquant.core.space import SearchSpace
from autoquant.job import Setup
from autoquant.model.graph.captured import Capture
from autoquant.searching.measuring.clocks import clock_of
from autoquant.searching.measuring.evaluator import (
    Calibrated,
    PlanEvaluator,
    latency_inputs,
    with_threads,
)
from autoquant.searching.measuring.latency import measure_latency
from autoquant.searching.measuring.plan_timer import product, relative_error
from autoquant.searching.preparing.space import BoundSpace, bind_space

_FEW = 3
_CERTAIN = 3.0
_NEARLY_EQUAL = 0.02
"""A share of a speed that is no reason to prefer one of two plans."""


@dataclass(frozen=True, eq=False)
class SubjectBench(Calibrated):
    """Times plans of a subject as its candidates are timed."""

    setup: Setup
    progress: Progress

    def space(self, settings: BuildSettings) -> SearchSpace:
        """What may be chosen on a target with these settings."""
        return bind_setup(self.setup, self.captured, settings).space

    @contextmanager
    def clock(self) -> Iterator[Clock]:
        """The clock that holds for the float model, with the threads of a latency measurement."""
        inputs = latency_inputs(self.subject, self.settings.latency_batch)
        threads = self.settings.latency_threads
        with with_threads(threads), torch.no_grad():
            yield clock_of(lambda: self.subject.timed(*inputs), threads)

    def time(
        self, backend: Backend, plan: Plan, pairs: int | None = None, rival: Timed | None = None
    ) -> Timed:
        """Measure a plan's speed over the float model, beside that or beside a faster rival."""
        settings, flat = self.settings, self.subject.timed
        call = PlanEvaluator(self, backend).call(plan)
        inputs = latency_inputs(self.subject, settings.latency_batch)
        most, threads = settings.latency_pairs, settings.latency_threads
        with with_threads(threads):
            if rival is None:
                eager = partial(backend.run, flat, inputs)
                found = measure_latency(call, eager, pairs=_FEW, threads=threads)["speedup"]
                return Timed(call, found)
            found = measure_latency(
                call,
                rival.call,
                pairs=min(most, pairs or most),
                threads=threads,
                fewest=_FEW,
                decided=_tells_apart,
            )["speedup"]
        return Timed(call, product(found, rival.speedup))


def _tells_apart(found: Measurement) -> bool:
    """Whether a ratio of two speeds says which is the faster, or that they are nearly equal."""
    return abs(math.log(found.value)) > _CERTAIN * max(relative_error(found), _NEARLY_EQUAL)


def bind_setup(setup: Setup, captured: Capture, build: BuildSettings) -> BoundSpace:
    """Bind the space of a setup to the model and its target."""
    return bind_space(
        setup.space,
        captured.sites,
        captured.agreements,
        partial(load_target(build.backend).site_support, build),
        real_kernels_only=setup.is_timed and not is_estimate(build.backend),
    )
