"""Which schemes an Ethos-U runs at which ops: of LiteRT's integers, what Vela takes."""

from __future__ import annotations

from autoquant.backends.litert import support as litert
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site

_SCHEMES = frozenset({Scheme.INT8, Scheme.INT16})

_NO_INT16 = frozenset({("ethos-u55", OpKind.MATMUL), ("ethos-u65", OpKind.MATMUL)})
"""Kinds that Vela leaves to the CPU in int16, by family."""


def kind_support(accelerator: str, kind: OpKind, scheme: Scheme) -> Support:
    """How an accelerator runs a scheme of a kind of op, in general.

    `tests/contract/test_ethos_u.py` holds the table against what Vela makes of one-op files.
    """
    return _support(accelerator, kind, scheme, litert.kind_support(kind, scheme))


def site_support(accelerator: str, site: Site, scheme: Scheme) -> Support:
    """How an accelerator runs a scheme of a site.

    Bounds on shapes and strides are Vela's to check, on the built file.
    """
    return _support(accelerator, site.kind, scheme, litert.site_support(site, scheme))


def _support(accelerator: str, kind: OpKind, scheme: Scheme, on_cpu: Support) -> Support:
    if scheme not in _SCHEMES or on_cpu is not Support.NATIVE:
        return Support.UNSUPPORTED
    family = accelerator.rpartition("-")[0]
    if scheme is Scheme.INT16 and (family, kind) in _NO_INT16:
        return Support.UNSUPPORTED
    return Support.NATIVE
