"""The reference computation: the torch engine whose numerics stand for the accelerator's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from autoquant.backends.protocol import Backend, BuildRequest, Target
from autoquant.backends.targets import load_target
from autoquant.core.backends import TORCH
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind

_PREFERRED = ("onednn", "qnnpack", "x86", "fbgemm")


def reference() -> Target:
    """The target that computes for the accelerator."""
    return load_target(TORCH)


@cache
def reference_engine() -> str:
    """The engine that computes what a scheme says, neither less nor more exactly.

    One whose int8 sums do not saturate on this CPU, and that has no fp16 linear kernel: such a
    kernel reads fp32 activations, where fp16 means both.
    """
    here = {item.options["engine"]: item for item in reference().variants().values()}

    def faults(engine: str) -> tuple[bool, bool]:
        fp16 = reference().kind_support(here[engine], OpKind.LINEAR, Scheme.FP16)
        return reference().overflows(here[engine]), fp16 is Support.NATIVE

    return min((engine for engine in _PREFERRED if engine in here), key=faults)


def reference_settings(settings: BuildSettings) -> BuildSettings:
    """How the reference engine builds what is asked of the accelerator."""
    return replace(settings, backend=TORCH, options={"engine": reference_engine()})


def open_reference(request: BuildRequest) -> Backend:
    """Give the torch backend that computes for the accelerator."""
    settings = reference_settings(request.settings)
    return reference().open_backend(replace(request, settings=settings))
