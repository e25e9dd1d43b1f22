"""The reference computation: the torch engine whose numerics stand for the accelerator's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.torch_cpu.engines import engines_here, has_fp16_linear, saturates
from autoquant.backends.torch_cpu.target import open_backend
from autoquant.core.build import BuildSettings

_PREFERRED = ("onednn", "qnnpack", "x86", "fbgemm")


@cache
def reference_engine() -> str:
    """The engine that computes what a scheme says, neither less nor more exactly.

    One whose int8 sums do not saturate on this CPU, and that has no fp16 linear kernel: such a
    kernel reads fp32 activations, where fp16 means both.
    """
    here = [engine for engine in _PREFERRED if engine in engines_here()]
    return min(here, key=lambda engine: (saturates(engine), has_fp16_linear(engine)))


def reference_settings(settings: BuildSettings) -> BuildSettings:
    """How the reference engine builds what is asked of the accelerator."""
    return replace(settings, engine=reference_engine())


def open_reference(request: BuildRequest) -> Backend:
    """Give the torch backend that computes for the accelerator."""
    return open_backend(replace(request, settings=reference_settings(request.settings)))
