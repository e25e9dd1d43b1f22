"""What LiteRT's operators can compute in, and how each wants its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoquant.core.precision import Scheme

MOVES = frozenset(
    {
        "RESHAPE",
        "TRANSPOSE",
        "PAD",
        "PADV2",
        "MIRROR_PAD",
        "SLICE",
        "STRIDED_SLICE",
        "SPLIT",
        "SPLIT_V",
        "SQUEEZE",
        "EXPAND_DIMS",
        "UNPACK",
        "GATHER",
        "BROADCAST_TO",
        "TILE",
        "SPACE_TO_DEPTH",
        "DEPTH_TO_SPACE",
        "RESIZE_NEAREST_NEIGHBOR",
    }
)
"""Operators that only move values: they take whatever their input is, and hand its scale on."""

MOVED_INPUT: Mapping[str, int] = {"SPLIT": 1}
"""Which input is moved; the first where not named."""

SAME_SCALE = frozenset({"MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR", "CONCATENATION"})
"""Operators whose integer kernels want one scale for all that they read and write."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Where an operator keeps its weights.

    Attributes:
        data: Which input is the activation.
        weight: Which input is the weight.
        channels: Its dimension of output channels.
        narrow_bias: Whether the int16 kernel takes an int32 bias, and is fast with it.
    """

    data: int
    weight: int
    channels: int
    narrow_bias: bool


WEIGHTED: Mapping[str, Weights] = {
    "CONV_2D": Weights(data=0, weight=1, channels=0, narrow_bias=True),
    "DEPTHWISE_CONV_2D": Weights(data=0, weight=1, channels=3, narrow_bias=False),
    "TRANSPOSE_CONV": Weights(data=2, weight=1, channels=0, narrow_bias=False),
    "FULLY_CONNECTED": Weights(data=0, weight=1, channels=0, narrow_bias=True),
}

FIXED_INT8: Mapping[str, tuple[float, int]] = {
    "LOGISTIC": (1 / 256, -128),
    "SOFTMAX": (1 / 256, -128),
    "TANH": (1 / 128, 0),
}
"""Scale and zero point that int8 kernels demand of their output."""

FIXED_INT16: Mapping[str, float] = {
    "LOGISTIC": 1 / 32768,
    "SOFTMAX": 1 / 32768,
    "TANH": 1 / 32768,
}
"""Scale that int16 kernels demand of their output."""

_INT16 = frozenset(
    {
        *WEIGHTED,
        "BATCH_MATMUL",
        "ADD",
        "SUB",
        "MUL",
        "MEAN",
        "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "LOGISTIC",
        "TANH",
        "SOFTMAX",
        "LEAKY_RELU",
        "RELU",
        "RELU6",
        "RESIZE_BILINEAR",
    }
)
_INT8 = _INT16 | {"HARD_SWISH"}
_FP16 = (_INT8 - {"MAX_POOL_2D", "TRANSPOSE_CONV", "RESIZE_BILINEAR"}) | {
    "RSQRT",
    "SQUARED_DIFFERENCE",
}

RUNS: Mapping[Scheme, frozenset[str]] = {
    Scheme.INT8: _INT8,
    Scheme.INT16: _INT16,
    Scheme.FP16: _FP16,
}
"""Operators that have a kernel for a scheme; fp32 is for all."""
