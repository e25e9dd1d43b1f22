"""torch's own quantized engines as a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from autoquant.backends.protocol import (
    Backend,
    Bench,
    BuildRequest,
    IntegerWriter,
    Target,
    every_kind,
)
from autoquant.backends.torch_cpu.engine_choice import describe, time_engines
from autoquant.backends.torch_cpu.engines import (
    POINTWISE,
    engines_here,
    has_float_output_linear,
    packing_engine,
    saturates,
)
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.grids import settled
from autoquant.backends.torch_cpu.kernel_choice import time_kernels
from autoquant.backends.torch_cpu.kernels import engines_side_by_side
from autoquant.backends.torch_cpu.support import site_support as graph_support
from autoquant.backends.torch_cpu.support import support_of
from autoquant.backends.torch_modules.backend import TorchModulesBackend
from autoquant.backends.torch_modules.support import module_support
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site


def site_support(settings: BuildSettings, site: Site, scheme: Scheme) -> Support:
    """How an engine runs one scheme of one site."""
    if settings.capture == "export":
        return graph_support(settings.engine, site, scheme)
    return module_support(settings.engine, site, scheme)


def kind_support(settings: BuildSettings, kind: OpKind, scheme: Scheme) -> Support:
    """How an engine runs one scheme of a kind of op."""
    return support_of(settings.engine, kind, scheme)


def integer_writers(settings: BuildSettings) -> Collection[IntegerWriter]:
    """All but linear layers where the engine's give floats; convolutions too on `pointwise`."""
    if not settings.engine:  # none is chosen yet
        return ()
    floats = set()
    if has_float_output_linear(packing_engine(settings.engine)):
        floats.add(OpKind.LINEAR)
    if settings.engine == POINTWISE:
        floats |= {OpKind.LINEAR, OpKind.CONV1D, OpKind.CONV2D, OpKind.CONV3D}
    return every_kind(Scheme.INT8) - {(kind, Scheme.INT8) for kind in floats}


def variants() -> Mapping[str, BuildSettings]:
    """The engines that run here."""
    found = {}
    for engine in engines_here():
        bits = "7 bits, its kernels saturate here" if saturates(engine) else "8 bits"
        found[f"torch / {engine} (int8 activations: {bits})"] = BuildSettings(engine=engine)
    return found


def open_backend(request: BuildRequest) -> Backend:
    """Give the backend of the settings' engine: without a graph, module by module."""
    if request.captured.how == "modules":
        return TorchModulesBackend(request)
    return TorchGraphBackend(request)


def settle(settings: BuildSettings, bench: Bench | None) -> BuildSettings:
    """Choose the engine of `auto` and the kernels of `per-op`, and say how many bits int8 has.

    Without a bench `auto` is the first engine here, and `per-op` the first of its engines for all
    ops.

    Raises:
        BackendError: No engine runs the model in int8.
    """
    if settings.engine == "per-op":
        return _with_kernels(settings, bench)
    if settings.engine != "auto":
        return settled(settings)
    if bench is None:
        return settled(replace(settings, engine=engines_here()[0]))
    with bench.progress.stage("timing the engines", None):
        timed = time_engines(settings, bench, open_backend)
    bench.progress.note(f"engine: {describe(timed)}")
    return settled(replace(settings, engine=next(iter(timed))))


def _with_kernels(settings: BuildSettings, bench: Bench | None) -> BuildSettings:
    engines = engines_side_by_side()
    reduce_range = settings.reduce_range
    if reduce_range is None:
        reduce_range = any(map(saturates, engines))
    settings = replace(settings, engine=engines[0], reduce_range=reduce_range)
    if bench is None:
        return settings
    with bench.progress.stage("timing the kernels of each engine", None):
        return replace(settings, kernels=time_kernels(settings, engines, bench))


def recipe(settings: BuildSettings, path: Path, threads: int) -> str:
    """torch.jit.load, with as many threads."""
    engine = f"torch.backends.quantized.engine = {settings.engine!r}; "
    return (
        f"import torch; torch.set_num_threads({threads}); {engine}"
        f"run = torch.jit.load({str(path)!r})"
    )


TARGET = Target(
    open_backend,
    site_support,
    kind_support,
    variants,
    integer_writers,
    settle=settle,
    recipe=recipe,
)
