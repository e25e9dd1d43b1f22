"""`engine: per-op`: the faster kernel of each op, timed in this model at this batch size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from autoquant.backends.native_plan import native_plan
from autoquant.backends.protocol import Bench
from autoquant.backends.torch_cpu.engine_choice import describe, fastest_first
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.kernels import choose_kernels, kernels_of
from autoquant.backends.torch_cpu.op_kernels import Kernels
from autoquant.backends.torch_cpu.options import engine_of
from autoquant.backends.torch_cpu.support import site_support
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Measurement
from autoquant.core.precision import Scheme
from autoquant.errors import BackendError

MIXED = "per op"


def time_kernels(settings: BuildSettings, engines: Sequence[str], bench: Bench) -> Kernels:
    """Profile the model on each engine, choose a kernel for every op, and time the choice.

    The all-int8 plan with the chosen kernels must beat the same plan on either engine alone: what
    ops take in two profiles does not tell what they take beside one another.

    Args:
        settings: Their engine converts the model.
        engines: Whose kernels can share it.
        bench: Times plans.

    Raises:
        BackendError: An engine can build no plan, or none runs the all-int8 plan.
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
    found: dict[str, Measurement] = {}
    for name, kernels in options.items():
        chosen = settings.with_options(kernels=kernels.to_json())
        backend = TorchGraphBackend(bench.request(chosen))
        try:
            found[name] = bench.speedup(backend, plan)
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
