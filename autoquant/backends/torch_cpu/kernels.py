"""`engine: per-op`: the faster engine of each op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from autoquant.backends.torch_cpu.engines import engines_here, has_fp16_linear
from autoquant.backends.torch_cpu.options import Kernels
from autoquant.backends.torch_cpu.profile import Profile
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.errors import BackendError

_PACKED = (Scheme.INT8, Scheme.INT8_DYNAMIC)
"""Schemes whose kernel comes with the packed weight."""


def engines_side_by_side() -> tuple[str, ...]:
    """The engines whose kernels can share one model, the one that converts it first.

    qnnpack's read other tensors; x86 is a rule of thumb that picks one of these two.
    """
    found = sorted(
        (engine for engine in ("fbgemm", "onednn") if engine in engines_here()),
        key=lambda engine: not has_fp16_linear(engine),
    )
    if len(found) < 2:
        raise BackendError(
            "backend.engine: per-op needs fbgemm and onednn, and this torch build has "
            f"{found[0] if found else 'neither'}",
            hint="choose auto",
        )
    return tuple(found)


def choose_kernels(profiles: Mapping[str, Profile], sites: Iterable[Site]) -> Kernels:
    """Take the faster engine of each op and scheme.

    Packed weights carry their engine, so ops packed for fbgemm and for onednn run side by side
    in one model; what passes between them are the same quantized tensors. Costs are compared
    relative to each profile's float model: the machine may have been busier in one of them.

    Args:
        profiles: By engine, of the same model, batch and threads; the first of equals is taken.
        sites: Of the model.

    Returns:
        A choice for each op with a weight, and each scheme that packs it.
    """
    return Kernels(
        tuple(
            (site.name, scheme, min(costs, key=lambda engine: costs[engine]))
            for site in sorted(sites, key=lambda site: site.name)
            if site.kind.is_weighted
            for scheme in _PACKED
            if (costs := _shares(profiles, site.name, scheme))
        )
    )


def kernels_of(engine: str, sites: Iterable[Site]) -> Kernels:
    """Give every op with a weight the kernel of one engine."""
    return Kernels(
        tuple(
            (site.name, scheme, engine)
            for site in sorted(sites, key=lambda site: site.name)
            if site.kind.is_weighted
            for scheme in _PACKED
        )
    )


def _shares(profiles: Mapping[str, Profile], site: str, scheme: Scheme) -> dict[str, float]:
    """By engine that runs it, an op's time over that of the float model."""
    return {
        engine: profile.table.ops[site, scheme] / profile.baseline_ms
        for engine, profile in profiles.items()
        if (site, scheme) in profile.table.ops
    }
