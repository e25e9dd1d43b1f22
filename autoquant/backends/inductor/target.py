"""torch.compile's inductor as a target."""

from __future__ import annotations

from autoquant.backends.fixed_shapes import refuse_lengths
from autoquant.backends.inductor.backend import InductorBackend
from autoquant.backends.inductor.support import kind_support, site_support
from autoquant.backends.protocol import BuildRequest, Target, without_options
from autoquant.core.build import BuildSettings


def open_backend(request: BuildRequest) -> InductorBackend:
    """Export the model once; plans are built from that."""
    refuse_lengths(request, "inductor")
    return InductorBackend(request)


TARGET = Target(
    open_backend,
    without_options(site_support),
    without_options(kind_support),
    variants=lambda: {"inductor": BuildSettings(backend="inductor")},
)
