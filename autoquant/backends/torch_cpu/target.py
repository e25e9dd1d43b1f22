"""torch's own quantized engines as a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from autoquant.backends.protocol import (
    Backend,
    Bench,
    BuildRequest,
    IntegerWriter,
    Target,
    every_kind,
    settle_range,
)
from autoquant.backends.torch_cpu.engine_choice import describe, time_engines, time_kernels
from autoquant.backends.torch_cpu.engines import (
    POINTWISE,
    engines_here,
    has_float_output_linear,
    packing_engine,
    saturates,
)
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.kernels import engines_side_by_side
from autoquant.backends.torch_cpu.modules.backend import TorchModulesBackend
from autoquant.backends.torch_cpu.options import engine_of
from autoquant.backends.torch_cpu.support import module_support, support_of
from autoquant.backends.torch_cpu.support import site_support as graph_support
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site


def site_support(settings: BuildSettings, site: Site, scheme: Scheme) -> Support:
    """How an engine runs one scheme of one site."""
    if settings.capture == "export":
        return graph_support(engine_of(settings), site, scheme)
    return module_support(engine_of(settings), site, scheme)


def kind_support(settings: BuildSettings, kind: OpKind, scheme: Scheme) -> Support:
    """How an engine runs one scheme of a kind of op."""
    return support_of(engine_of(settings), kind, scheme)


def integer_writers(settings: BuildSettings) -> Collection[IntegerWriter]:
    """All but linear layers where the engine's give floats; convolutions too on `pointwise`."""
    engine = engine_of(settings)
    if not engine:  # none is chosen yet
        return ()
    floats = set()
    if has_float_output_linear(packing_engine(engine)):
        floats.add(OpKind.LINEAR)
    if engine == POINTWISE:
        floats |= {OpKind.LINEAR, OpKind.CONV1D, OpKind.CONV2D, OpKind.CONV3D}
    return every_kind(Scheme.INT8) - {(kind, Scheme.INT8) for kind in floats}


def overflows(settings: BuildSettings) -> bool:
    """Whether the kernels of the engine saturate on this CPU."""
    return saturates(engine_of(settings))


def variants() -> Mapping[str, BuildSettings]:
    """The engines that run here."""
    found = {}
    for engine in engines_here():
        settings = BuildSettings(options={"engine": engine})
        note = " (int8 weights: 7 bits, its kernels saturate here)" if overflows(settings) else ""
        found[f"torch / {engine}{note}"] = settings
    return found


def open_backend(request: BuildRequest) -> Backend:
    """Give the backend of the settings' engine: without a graph, module by module."""
    if request.captured.how == "modules":
        return TorchModulesBackend(request)
    return TorchGraphBackend(request)


def choose(settings: BuildSettings, bench: Bench | None) -> BuildSettings:
    """Choose the engine of `auto` and the kernels of `per-op`.

    Without a bench `auto` is the first engine here, and `per-op` the first of its engines for all
    ops.

    Raises:
        BackendError: No engine runs the model in int8.
    """
    engine = engine_of(settings)
    if engine == "per-op":
        return _with_kernels(settings, bench)
    if engine == "auto":
        engine = engines_here()[0] if bench is None else _fastest(settings, bench)
        settings = settings.with_options(engine=engine)
    return settings


def _fastest(settings: BuildSettings, bench: Bench) -> str:
    with bench.progress.stage("timing the engines", None):
        timed = time_engines(settings, bench, open_backend)
    bench.progress.note(f"engine: {describe(timed)}")
    return next(iter(timed))


def _with_kernels(settings: BuildSettings, bench: Bench | None) -> BuildSettings:
    engines = engines_side_by_side()
    settings = settings.with_options(engine=engines[0])
    settings = settle_range(settings, lambda: any(map(saturates, engines)))
    if bench is None:
        return settings
    with bench.progress.stage("timing the kernels of each engine", None):
        kernels = time_kernels(settings, engines, bench)
    return settings.with_options(kernels=kernels.to_json())


def recipe(settings: BuildSettings, path: Path, threads: int) -> str:
    """torch.jit.load, with as many threads."""
    engine = f"torch.backends.quantized.engine = {packing_engine(engine_of(settings))!r}; "
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
    overflows,
    choose=choose,
    recipe=recipe,
)
