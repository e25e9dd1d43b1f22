"""torch.compile's inductor as a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from autoquant.backends.fixed_shapes import refuse_lengths
from autoquant.backends.inductor.backend import InductorBackend
from autoquant.backends.inductor.support import kind_support, site_support
from autoquant.backends.protocol import BuildRequest, IntegerWriter
from autoquant.core.build import BuildSettings

__all__ = ["integer_writers", "kind_support", "open_backend", "site_support", "variants"]


def integer_writers(settings: BuildSettings) -> Collection[IntegerWriter]:  # noqa: ARG001
    """None: its int8 kernels give floats as well."""
    return ()


def variants() -> Mapping[str, BuildSettings]:
    """The one that this torch has."""
    return {"inductor": BuildSettings(backend="inductor")}


def open_backend(request: BuildRequest) -> InductorBackend:
    """Export the model once; plans are built from that."""
    refuse_lengths(request, "inductor")
    return InductorBackend(request)
