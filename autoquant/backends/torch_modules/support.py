"""Which scheme torch runs for a module between float neighbours."""

from __future__ import annotations

from autoquant.backends.torch_cpu.engines import TRANSPOSED, has_fp16_linear, transposes_rightly
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site

_EMBEDDINGS = frozenset({OpKind.EMBEDDING, OpKind.EMBEDDING_BAG})
_RECURRENT = frozenset({OpKind.LSTM, OpKind.GRU})


def module_support(engine: str, site: Site, scheme: Scheme) -> Support:
    """Tell how `engine` runs `scheme` at a site: what a forward calls by function stays fp32."""
    if site.function is not None:
        return _native_if(scheme is Scheme.FP32)
    return kind_support(engine, site.kind, scheme)


def kind_support(engine: str, kind: OpKind, scheme: Scheme) -> Support:
    """Tell how `engine` runs `scheme` for a module of `kind`.

    The table is checked against what torch really makes of one-module models by
    `tests/contract/test_torch_modules.py`.
    """
    if scheme is Scheme.FP32:
        return Support.NATIVE
    if not kind.is_weighted:
        return Support.UNSUPPORTED
    if kind in _EMBEDDINGS:
        return _native_if(scheme is Scheme.INT8_WEIGHT_ONLY)
    if kind in _RECURRENT:
        return _native_if(scheme is Scheme.INT8_DYNAMIC)
    if scheme is Scheme.INT8:
        return _native_if(kind not in TRANSPOSED or transposes_rightly(engine, kind, True))
    if scheme is Scheme.BF16:
        return Support.NATIVE
    if kind is OpKind.LINEAR and scheme is Scheme.INT8_DYNAMIC:
        return Support.NATIVE
    if kind is OpKind.LINEAR and scheme is Scheme.FP16:
        return _native_if(has_fp16_linear(engine))
    return Support.UNSUPPORTED


def _native_if(condition: bool) -> Support:
    return Support.NATIVE if condition else Support.UNSUPPORTED
