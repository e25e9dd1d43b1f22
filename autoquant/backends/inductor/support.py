"""What PT2E can be told site by site, and inductor then runs in int8."""

from __future__ import annotations

from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site

STATIC = frozenset({OpKind.CONV2D, OpKind.LINEAR})
DYNAMIC = frozenset({OpKind.LINEAR})


def site_support(site: Site, scheme: Scheme) -> Support:
    """How inductor runs one scheme of one site: int8 needs a module, which has a path."""
    if site.function is not None and scheme is not Scheme.FP32:
        return Support.UNSUPPORTED
    return kind_support(site.kind, scheme)


def kind_support(kind: OpKind, scheme: Scheme) -> Support:
    """The same for a module of a kind."""
    native = (
        scheme is Scheme.FP32
        or (scheme is Scheme.INT8 and kind in STATIC)
        or (scheme is Scheme.INT8_DYNAMIC and kind in DYNAMIC)
    )
    return Support.native_if(native)
