"""Which engine runs which scheme of which kind of op, and how."""

from __future__ import annotations

from autoquant.backends.torch_cpu.convolutions import transposes_rightly
from autoquant.backends.torch_cpu.engines import has_fp16_linear, packing_engine
from autoquant.backends.torch_cpu.int8_weights import reads_whole
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import LOOKUPS, RECURRENT, TRANSPOSED, OpKind, Site

_QNNPACK_LACKS = frozenset({OpKind.CONV3D, OpKind.CONV_TRANSPOSE3D, OpKind.MATMUL})


def support_of(engine: str, kind: OpKind, scheme: Scheme) -> Support:
    """Tell how `engine` runs `scheme` for ops of `kind`.

    The table is checked against what the converter really makes of one-op models by
    `tests/contract/test_torch_engines.py`.
    """
    if scheme is Scheme.FP32:
        return Support.NATIVE
    if kind in LOOKUPS:
        return Support.native_if(scheme is Scheme.INT8_WEIGHT_ONLY)
    if kind in RECURRENT:
        halves = scheme is Scheme.FP16 and has_fp16_linear(engine)
        return Support.native_if(scheme is Scheme.INT8_DYNAMIC or halves)
    if kind is OpKind.CUSTOM:
        return Support.native_if(scheme is Scheme.INT8)
    if kind is OpKind.ATTENTION:
        return Support.native_if(scheme is Scheme.BF16)
    if scheme is Scheme.INT8:
        if kind in TRANSPOSED and not transposes_rightly(packing_engine(engine), kind):
            return Support.UNSUPPORTED
        return Support.native_if(not (engine == "qnnpack" and kind in _QNNPACK_LACKS))
    if scheme is Scheme.BF16:
        return Support.NATIVE
    if scheme in (Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHT_ONLY_BF16):
        return Support.native_if(kind is OpKind.LINEAR)
    if scheme is Scheme.FP16:
        native = kind is OpKind.LINEAR and has_fp16_linear(engine)
        return Support.NATIVE if native else Support.EMULATED
    if scheme is Scheme.INT16:
        return Support.EMULATED
    if scheme is Scheme.INT16_WEIGHT and kind.is_weighted:
        return Support.EMULATED
    return Support.UNSUPPORTED


def site_support(engine: str, site: Site, scheme: Scheme) -> Support:
    """Tell how `engine` runs `scheme` at a site, as far as its kind, name and sizes say."""
    if scheme is Scheme.INT8_WEIGHT_ONLY_BF16 and not reads_whole(site):
        return Support.UNSUPPORTED
    return support_of(engine, site.kind, scheme)


def module_support(engine: str, site: Site, scheme: Scheme) -> Support:
    """Tell how `engine` runs `scheme` for a module: by a real kernel, or not at all.

    The table is checked against what is really built of one-module models by
    `tests/contract/test_torch_modules.py`.
    """
    if scheme is Scheme.FP32:
        return Support.NATIVE
    is_module = site.kind.is_weighted and site.function is None
    native = is_module and site_support(engine, site, scheme) is Support.NATIVE
    return Support.native_if(native)
