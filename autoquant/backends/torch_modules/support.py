"""Which scheme torch runs for a module between float neighbours."""

from __future__ import annotations

from functools import cache

from autoquant.backends.torch_cpu.engines import has_fp16_linear, using_engine
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site
from autoquant.model.torch_ao.eager_modules import transposed_convolution_error

_EMBEDDINGS = frozenset({OpKind.EMBEDDING, OpKind.EMBEDDING_BAG})
_RECURRENT = frozenset({OpKind.LSTM, OpKind.GRU})
_TRANSPOSED = {
    OpKind.CONV_TRANSPOSE1D: 1,
    OpKind.CONV_TRANSPOSE2D: 2,
    OpKind.CONV_TRANSPOSE3D: 3,
}


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
        return _native_if(kind not in _TRANSPOSED or transposes_rightly(engine, _TRANSPOSED[kind]))
    if scheme is Scheme.BF16:
        return Support.NATIVE
    if kind is OpKind.LINEAR and scheme is Scheme.INT8_DYNAMIC:
        return Support.NATIVE
    if kind is OpKind.LINEAR and scheme is Scheme.FP16:
        return _native_if(has_fp16_linear(engine))
    return Support.UNSUPPORTED


@cache
def transposes_rightly(engine: str, dimensions: int) -> bool:
    """Whether the engine's int8 transposed convolution gives what its float one does.

    Where the number of channels changes, onednn's (and so x86's) gives other values in torch
    2.13, and qnnpack's for volumes too. Found out by running the kernel.

    Args:
        engine: A torch quantized engine.
        dimensions: 1, 2 or 3.
    """
    with using_engine(engine):
        return transposed_convolution_error(dimensions) < 1.0


def _native_if(condition: bool) -> Support:
    return Support.NATIVE if condition else Support.UNSUPPORTED
