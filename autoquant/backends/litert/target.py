"""LiteRT on this CPU as a target."""

from __future__ import annotations

from pathlib import Path

from autoquant.backends.fixed_shapes import refuse_lengths
from autoquant.backends.litert.backend import LiteRtBackend
from autoquant.backends.litert.support import kind_support, site_support
from autoquant.backends.protocol import BuildRequest, Target, every_kind, without_options
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme


def open_backend(request: BuildRequest) -> LiteRtBackend:
    """Convert the float model for the batch size of the example."""
    refuse_lengths(request, "litert")
    return LiteRtBackend(request)


def recipe(settings: BuildSettings, path: Path, threads: int) -> str:  # noqa: ARG001
    """An interpreter with as many threads."""
    return (
        "from ai_edge_litert.interpreter import Interpreter; "
        f"run = Interpreter({str(path)!r}, num_threads={threads}).get_signature_runner()"
    )


TARGET = Target(
    open_backend,
    without_options(site_support),
    without_options(kind_support),
    variants=lambda: {"litert (XNNPACK and built-in kernels)": BuildSettings(backend="litert")},
    # every tensor of its files has one format
    integer_writers=lambda _: every_kind(Scheme.INT8, Scheme.INT16),
    recipe=recipe,
)
