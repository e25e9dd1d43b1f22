"""LiteRT on this CPU as a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from autoquant.backends.fixed_shapes import refuse_lengths
from autoquant.backends.litert import support
from autoquant.backends.litert.backend import LiteRtBackend
from autoquant.backends.protocol import BuildRequest, IntegerWriter, every_kind
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site


def site_support(settings: BuildSettings, site: Site, scheme: Scheme) -> Support:
    """How LiteRT runs one scheme of one site."""
    del settings
    return support.site_support(site, scheme)


def kind_support(settings: BuildSettings, kind: OpKind, scheme: Scheme) -> Support:
    """How LiteRT runs one scheme of a kind of op."""
    del settings
    return support.kind_support(kind, scheme)


def integer_writers(settings: BuildSettings) -> Collection[IntegerWriter]:  # noqa: ARG001
    """All: every tensor of its files has one format."""
    return every_kind(Scheme.INT8, Scheme.INT16)


def variants() -> Mapping[str, BuildSettings]:
    """The one that runs here."""
    return {"litert (XNNPACK and built-in kernels)": BuildSettings(backend="litert")}


def open_backend(request: BuildRequest) -> LiteRtBackend:
    """Convert the float model for the batch size of the example."""
    refuse_lengths(request, "litert")
    return LiteRtBackend(request)
