"""torch.compile's inductor as a target."""

from __future__ import annotations

from pathlib import Path

from autoquant.backends.fixed_shapes import refuse_lengths
from autoquant.backends.inductor.backend import InductorBackend
from autoquant.backends.inductor.quantizer import saturates
from autoquant.backends.inductor.support import kind_support, site_support
from autoquant.backends.protocol import BuildRequest, Target, without_options
from autoquant.core.build import BuildSettings


def open_backend(request: BuildRequest) -> InductorBackend:
    """Export the model once; plans are built from that."""
    refuse_lengths(request, "inductor")
    return InductorBackend(request)


def recipe(settings: BuildSettings, path: Path, threads: int) -> str:  # noqa: ARG001
    """torch.compile with frozen weights, without which no int8 kernel is called."""
    return (
        f"import torch, torch._inductor.config; torch.set_num_threads({threads}); "
        "torch._inductor.config.freezing = True; "
        f"run = torch.compile(torch.export.load({str(path)!r}).module())"
    )


TARGET = Target(
    open_backend,
    without_options(site_support),
    without_options(kind_support),
    variants=lambda: {"inductor": BuildSettings(backend="inductor")},
    overflows=lambda _: saturates(),
    recipe=recipe,
)
