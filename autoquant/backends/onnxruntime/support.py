"""What ONNX Runtime's CPU kernels run of each scheme."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.core.precision import BY_GROUP, Scheme, Support
from autoquant.core.sites import OpKind, Site

_INT8 = frozenset(
    {
        OpKind.CONV1D,
        OpKind.CONV2D,
        OpKind.CONV3D,
        OpKind.LINEAR,
        OpKind.ADD,
        OpKind.MUL,
        OpKind.MATMUL,
        OpKind.CAT,
        OpKind.POOL,
        OpKind.ACTIVATION,
    }
)
_NATIVE: Mapping[Scheme, frozenset[OpKind]] = {
    Scheme.FP32: frozenset(OpKind),
    Scheme.INT8: _INT8,
    Scheme.INT8_DYNAMIC: frozenset({OpKind.LINEAR, OpKind.LSTM}),
    **dict.fromkeys(
        (Scheme.INT8_WEIGHT_ONLY, *BY_GROUP), frozenset({OpKind.LINEAR, OpKind.EMBEDDING})
    ),
}
_NOT_EMULATED = frozenset(
    {
        OpKind.EMBEDDING,
        OpKind.EMBEDDING_BAG,
        OpKind.LSTM,
        OpKind.GRU,
        OpKind.ATTENTION,
        OpKind.CUSTOM,
    }
)
_INT8_ACTIVATIONS = frozenset(
    {"ReLU", "ReLU6", "Hardtanh", "LeakyReLU", "Sigmoid", "Softmax"}
    | {"relu", "relu6", "hardtanh", "leaky_relu", "sigmoid", "softmax"}
)


def support_of(kind: OpKind, scheme: Scheme) -> Support:
    """Tell how ONNX Runtime runs a scheme for ops of a kind.

    Checked against what it really makes of one-op models by `tests/contract/test_onnxruntime.py`.
    """
    if kind in _NATIVE.get(scheme, ()):
        return Support.NATIVE
    if scheme in (Scheme.INT16, Scheme.FP16) and kind not in _NOT_EMULATED:
        return Support.EMULATED
    return Support.UNSUPPORTED


def support_at(site: Site, scheme: Scheme) -> Support:
    """Tell how ONNX Runtime runs a scheme of a site.

    Not every activation has an int8 kernel.
    """
    if scheme is Scheme.INT8 and site.kind is OpKind.ACTIVATION:
        known = bool(_INT8_ACTIVATIONS.intersection(site.fused))
        return Support.native_if(known)
    return support_of(site.kind, scheme)
