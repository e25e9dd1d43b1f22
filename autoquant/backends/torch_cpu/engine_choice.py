"""`engine: auto`: the fastest engine for this model and batch size, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from autoquant.backends.protocol import Backend, Bench, BuildRequest, Timed
from autoquant.backends.targets import native_plan
from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.kernels import choose_kernels, kernels_of
from autoquant.backends.torch_cpu.options import Kernels, engine_of
from autoquant.backends.torch_cpu.support import site_support
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Measurement
from autoquant.core.precision import Scheme
from autoquant.errors import BackendError

_PAIRS = 7
"""Enough to tell engines apart: they differ by tens of percent."""


def time_engines(
    settings: BuildSettings, bench: Bench, open_backend: Callable[[BuildRequest], Backend]
) -> Mapping[str, Measurement]:
    """Measure the speed-up of the all-int8 plan on every engine that can build it.

    The first is paired with the float model, each other with the fastest before it.

    Returns:
        By engine, fastest first.
    """
    found: dict[str, Timed] = {}
    reasons: list[str] = []
    for engine in engines_here():
        request = bench.request(settings.with_options(engine=engine))
        backend = open_backend(request)
        try:
            plan = native_plan(Scheme.INT8, request.captured.sites, backend.support)
            found[engine] = bench.time(backend, plan, _PAIRS, fastest_of(found))
        except BackendError as error:
            reasons.append(error.message)
    if not found:
        raise BackendError(
            f"backend.engine: auto: no engine runs this model in int8: {reasons[0]}",
            hint="name an engine, and pin the op that it refuses to fp32",
        )
    return fastest_first(found)


def fastest_of(found: Mapping[str, Timed]) -> Timed | None:
    """The fastest so far."""
    return max(found.values(), key=lambda item: item.speedup.value, default=None)


def fastest_first(found: Mapping[str, Timed]) -> dict[str, Measurement]:
    """Speed-ups in order."""
    speedups = {name: item.speedup for name, item in found.items()}
    return dict(sorted(speedups.items(), key=lambda item: -item[1].value))


def describe(found: Mapping[str, Measurement]) -> str:
    """Which was the fastest, and what all of them gain."""
    speeds = ", ".join(f"{name} {item.value:.2f}x" for name, item in found.items())
    return f"{next(iter(found))}, the fastest here in all-int8 over eager fp32 ({speeds})"


MIXED = "per op"


def time_kernels(settings: BuildSettings, engines: Sequence[str], bench: Bench) -> Kernels:
    """Profile the model on each engine, choose a kernel for every op, and time the choice.

    The all-int8 plan with the chosen kernels must beat the same plan on either engine alone: what
    ops take in two profiles does not tell what they take beside one another.
    """
    profiles = {}
    for engine in engines:
        own = settings.with_options(engine=engine)
        request = bench.request(own)
        with bench.clock() as clock:
            backend = TorchGraphBackend(request)
            profiles[engine] = backend.profile(bench.space(own), request.timed, clock)
    sites = request.captured.sites
    options = {engine: kernels_of(engine, sites) for engine in engines}
    options[MIXED] = choose_kernels(profiles, sites)
    plan = native_plan(Scheme.INT8, sites, partial(site_support, engine_of(settings)))
    found: dict[str, Timed] = {}
    for name, kernels in options.items():
        chosen = settings.with_options(kernels=kernels.to_json())
        backend = TorchGraphBackend(bench.request(chosen))
        try:
            found[name] = bench.time(backend, plan, rival=fastest_of(found))
        except BackendError:
            continue
    if not found:
        raise BackendError(
            "backend.engine: per-op: no engine runs this model in int8",
            hint="name an engine, and pin the op that it refuses to fp32",
        )
    ranked = fastest_first(found)
    bench.progress.note(f"kernels: {describe(ranked)}")
    return options[next(iter(ranked))]
