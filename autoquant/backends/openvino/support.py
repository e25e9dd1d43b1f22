"""Which schemes OpenVINO runs for which kind of op on this CPU."""

from __future__ import annotations

from autoquant.backends.openvino.engine import (
    BF16,
    F16,
    core_capabilities,
    precision_for,
    quantizes_dynamically,
)
from autoquant.core.precision import BY_GROUP, Scheme, Support
from autoquant.core.sites import LOOKUPS, RECURRENT, TRANSPOSED, OpKind, Site

_NO_BF16 = RECURRENT | LOOKUPS | TRANSPOSED | {OpKind.CUSTOM}
_NO_INT8 = _NO_BF16 | {OpKind.ATTENTION, OpKind.MUL, OpKind.NORM, OpKind.ACTIVATION}
_FOLLOWED = frozenset(
    {
        Scheme.INT8,
        Scheme.INT8_DYNAMIC,
        Scheme.INT8_WEIGHT_ONLY,
        *BY_GROUP,
        Scheme.BF16,
        Scheme.FP32,
    }
)
_WIDE = 1024
"""Input features of a linear layer that any group of dynamic quantization divides."""


def kind_support(kind: OpKind, scheme: Scheme) -> Support:
    """How OpenVINO runs a scheme of a kind of op here.

    The table is checked against what the engine really makes of one-op models by
    `tests/contract/test_openvino.py`.
    """
    if scheme is Scheme.FP32:
        return Support.NATIVE
    if scheme is Scheme.BF16:
        return Support.native_if(kind not in _NO_BF16 and precision_for(BF16) == BF16)
    if scheme is Scheme.INT8:
        return Support.native_if(kind not in _NO_INT8 and "INT8" in core_capabilities())
    if scheme is Scheme.INT8_DYNAMIC:
        return Support.native_if(kind is OpKind.LINEAR and quantizes_dynamically(_WIDE))
    if scheme is Scheme.INT8_WEIGHT_ONLY or scheme in BY_GROUP:
        return Support.native_if(kind in (OpKind.LINEAR, OpKind.EMBEDDING))
    return Support.UNSUPPORTED


def site_support(site: Site, scheme: Scheme) -> Support:
    """How OpenVINO runs a scheme of one site here.

    Groups of weights must fill a row; a layer with a single output is multiplied in float.
    A site that follows another goes with it: what has no kernel in the scheme of its leader
    computes in float, between tensors in that scheme, and the read-back says so.
    """
    if site.follows is not None:
        if scheme is Scheme.BF16:
            return kind_support(site.kind, scheme)
        return Support.native_if(scheme in _FOLLOWED)
    found = kind_support(site.kind, scheme)
    if scheme is Scheme.INT8_DYNAMIC and found is Support.NATIVE:
        return Support.native_if(quantizes_dynamically(site.weight_row))
    if scheme.group is not None and found is Support.NATIVE:
        return Support.native_if(site.weight_row % scheme.group == 0 and site.weight_channels > 1)
    return found


def why_unsupported(scheme: Scheme) -> str:
    """Why no op runs a scheme, as far as there is one reason for all; else empty."""
    if scheme is Scheme.FP16:
        found = precision_for(F16)
        if found != F16:
            return f"asked for f16, OpenVINO says that it runs {found} on this CPU"
        return "autoquant has not been checked on CPUs with f16 kernels"
    if scheme in (Scheme.INT16, Scheme.INT16_WEIGHT):
        return "OpenVINO drops quantizers of 65536 levels and has no int16 kernel on CPUs"
    return ""
