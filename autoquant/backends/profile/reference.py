"""The reference computation: the torch engine whose numerics stand for the accelerator's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.backend import TorchCpuBackend, engine_settings
from autoquant.backends.torch_cpu.engines import engines_here, has_fp16_linear, saturates
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend

_PREFERRED = ("onednn", "qnnpack", "x86", "fbgemm")


@cache
def reference_engine() -> str:
    """The engine that computes what a scheme says, neither less nor more exactly.

    One whose int8 sums do not saturate on this CPU, and that has no fp16 linear kernel: such a
    kernel reads fp32 activations, where fp16 means both.
    """
    here = [engine for engine in _PREFERRED if engine in engines_here()]
    return min(here, key=lambda engine: (saturates(engine), has_fp16_linear(engine)))


def open_reference(request: BuildRequest) -> TorchCpuBackend | TorchGraphBackend:
    """Give the torch backend that computes for the accelerator."""
    settings, engine = request.settings, reference_engine()
    if request.captured.how == "export":
        return TorchGraphBackend(replace(request, settings=replace(settings, engine=engine)))
    return TorchCpuBackend(
        request.captured,
        request.statistics,
        engine,
        engine_settings(engine, settings.observer, ranges=settings.ranges),
        request.example,
        model=request.model,
    )
