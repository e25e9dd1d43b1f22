"""Which schemes LiteRT runs at which ops, and how."""

from __future__ import annotations

from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site

_ALL = frozenset({Scheme.INT8, Scheme.INT16, Scheme.FP16, Scheme.FP32})
_NO_FP16 = frozenset({Scheme.INT8, Scheme.INT16, Scheme.FP32})
_FLOATS = frozenset({Scheme.FP16, Scheme.FP32})
_FP32 = frozenset({Scheme.FP32})

_SCHEMES = {
    OpKind.CONV1D: _ALL,
    OpKind.CONV2D: _ALL,
    OpKind.CONV3D: _FP32,
    OpKind.CONV_TRANSPOSE1D: _NO_FP16,
    OpKind.CONV_TRANSPOSE2D: _NO_FP16,
    OpKind.CONV_TRANSPOSE3D: _FP32,
    OpKind.LINEAR: _ALL,
    OpKind.EMBEDDING: _FP32,
    OpKind.EMBEDDING_BAG: frozenset[Scheme](),
    OpKind.LSTM: _FP32,
    OpKind.GRU: _FP32,
    OpKind.ADD: _ALL,
    OpKind.MUL: _ALL,
    OpKind.MATMUL: _ALL,
    OpKind.ATTENTION: _FP32,
    OpKind.CAT: _ALL,
    OpKind.POOL: _ALL,
    OpKind.ACTIVATION: _ALL,
    OpKind.NORM: _FLOATS,
    OpKind.CUSTOM: _FP32,
}
"""Of the op in general; what follows differs."""

_BY_NAME = {
    "MaxPool1d": _NO_FP16,
    "max_pool1d": _NO_FP16,
    "MaxPool2d": _NO_FP16,
    "max_pool2d": _NO_FP16,
    "MaxPool3d": _FP32,
    "max_pool3d": _FP32,
    "AvgPool3d": _FP32,
    "avg_pool3d": _FP32,
    "AdaptiveAvgPool3d": _FP32,
    "adaptive_avg_pool3d": _FP32,
    "Hardswish": _ALL - {Scheme.INT16},
    "hardswish": _ALL - {Scheme.INT16},
    "ELU": _FP32,
    "elu": _FP32,
    "GELU": _FP32,
    "gelu": _FP32,
    "Mish": _FP32,
    "mish": _FP32,
    "Softplus": _FP32,
    "softplus": _FP32,
    "LogSoftmax": _FP32,
    "log_softmax": _FP32,
    "PReLU": _FLOATS,
    "BatchNorm2d": _ALL,
    "BNReLU2d": _ALL,
}
"""Ops whose kernels differ from the rest of their kind: pieces without an integer kernel."""


def kind_support(kind: OpKind, scheme: Scheme) -> Support:
    """How LiteRT runs a scheme of a kind of op, in general.

    `tests/contract/test_litert.py` holds the table against what is built and run.
    """
    return _support(scheme, _SCHEMES[kind])


def site_support(site: Site, scheme: Scheme) -> Support:
    """How LiteRT runs a scheme of a site."""
    return _support(scheme, _BY_NAME.get(site.fused[0], _SCHEMES[site.kind]))


def _support(scheme: Scheme, runs: frozenset[Scheme]) -> Support:
    if scheme not in runs:
        return Support.UNSUPPORTED
    return Support.EMULATED if scheme is Scheme.FP16 else Support.NATIVE
