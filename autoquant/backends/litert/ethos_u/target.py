"""Arm Ethos-U NPUs as a target."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.backends.fixed_shapes import refuse_lengths
from autoquant.backends.litert.ethos_u import support
from autoquant.backends.litert.ethos_u.backend import EthosUBackend
from autoquant.backends.litert.ethos_u.configuration import configuration_of
from autoquant.backends.protocol import BuildRequest, Target, every_kind
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site

_SHOWN = ("ethos-u55-128", "ethos-u65-256", "ethos-u85-256")
"""One of each family: sizes of a family differ in speed alone."""


def site_support(settings: BuildSettings, site: Site, scheme: Scheme) -> Support:
    """How the NPU runs one scheme of one site."""
    accelerator = configuration_of(settings).accelerator
    return support.site_support(accelerator, site, scheme)


def kind_support(settings: BuildSettings, kind: OpKind, scheme: Scheme) -> Support:
    """How the NPU runs one scheme of a kind of op."""
    accelerator = configuration_of(settings).accelerator
    return support.kind_support(accelerator, kind, scheme)


def variants() -> Mapping[str, BuildSettings]:
    """One accelerator of each family."""
    return {
        f"ethos-u / {name}": BuildSettings("ethos-u", options={"accelerator": name})
        for name in _SHOWN
    }


def open_backend(request: BuildRequest) -> EthosUBackend:
    """Convert the float model for quality and for Vela, and estimate the rival."""
    refuse_lengths(request, "ethos-u")
    return EthosUBackend(request)


TARGET = Target(
    open_backend,
    site_support,
    kind_support,
    variants,
    integer_writers=lambda _: every_kind(Scheme.INT8, Scheme.INT16),  # the NPU holds no floats
)
