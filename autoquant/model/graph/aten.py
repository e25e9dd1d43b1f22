"""ATen ops, as torch.export names them: what each is to a capture."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from torch._ops import OpOverload
from torch.fx import Node

from autoquant.core.sites import OpKind

ATEN_KINDS: Mapping[str, OpKind] = {
    "conv1d": OpKind.CONV1D,
    "conv2d": OpKind.CONV2D,
    "conv3d": OpKind.CONV3D,
    "conv_transpose1d": OpKind.CONV_TRANSPOSE1D,
    "conv_transpose2d": OpKind.CONV_TRANSPOSE2D,
    "conv_transpose3d": OpKind.CONV_TRANSPOSE3D,
    "linear": OpKind.LINEAR,
    "embedding": OpKind.EMBEDDING,
    "embedding_bag": OpKind.EMBEDDING_BAG,
    "lstm": OpKind.LSTM,
    "gru": OpKind.GRU,
    "add": OpKind.ADD,
    "mul": OpKind.MUL,
    "matmul": OpKind.MATMUL,
    "bmm": OpKind.MATMUL,
    "mm": OpKind.MATMUL,
    "einsum": OpKind.MATMUL,
    "scaled_dot_product_attention": OpKind.ATTENTION,
    "cat": OpKind.CAT,
    "adaptive_avg_pool1d": OpKind.POOL,
    "adaptive_avg_pool2d": OpKind.POOL,
    "adaptive_avg_pool3d": OpKind.POOL,
    "avg_pool1d": OpKind.POOL,
    "avg_pool2d": OpKind.POOL,
    "avg_pool3d": OpKind.POOL,
    "max_pool1d": OpKind.POOL,
    "max_pool2d": OpKind.POOL,
    "max_pool3d": OpKind.POOL,
    "mean": OpKind.POOL,
    "hardswish": OpKind.ACTIVATION,
    "gelu": OpKind.ACTIVATION,
    "silu": OpKind.ACTIVATION,
    "mish": OpKind.ACTIVATION,
    "softplus": OpKind.ACTIVATION,
    "log_softmax": OpKind.ACTIVATION,
    "elu": OpKind.ACTIVATION,
    "leaky_relu": OpKind.ACTIVATION,
    "prelu": OpKind.ACTIVATION,
    "hardsigmoid": OpKind.ACTIVATION,
    "sigmoid": OpKind.ACTIVATION,
    "tanh": OpKind.ACTIVATION,
    "softmax": OpKind.ACTIVATION,
    "relu": OpKind.ACTIVATION,
    "relu6": OpKind.ACTIVATION,
    "hardtanh": OpKind.ACTIVATION,
    "batch_norm": OpKind.NORM,
    "layer_norm": OpKind.NORM,
    "instance_norm": OpKind.NORM,
    "group_norm": OpKind.NORM,
    "rms_norm": OpKind.NORM,
}
"""What each ATen op is to a capture; all others stay in float.

What an engine has no integer kernel for (GELU, layer norm, attention) is a site all the same: it
may run in bf16 or fp16, and in integers on engines that can.
"""

ATEN_OUTPUT_RANGES: Mapping[str, tuple[float, float]] = {
    "hardsigmoid": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
}

RESHAPING = frozenset(
    {
        "_unsafe_view",
        "alias",
        "channel_shuffle",
        "clone",
        "contiguous",
        "expand",
        "flatten",
        "flip",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "repeat",
        "reshape",
        "roll",
        "squeeze",
        "t",
        "transpose",
        "unflatten",
        "unsqueeze",
        "view",
    }
)
"""Ops that move values and change none."""

PASS_THROUGH = RESHAPING | {
    "chunk",
    "select",
    "slice",
    "split",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
}
"""Ops that hand their input's format on."""

RELU_TAKING_OPS = frozenset({"conv1d", "conv2d", "conv3d", "linear", "add", "mul", "batch_norm"})
"""What absorbs a relu that alone reads its output."""

SHAPE_READING_OPS = frozenset(
    {
        "empty_like",
        "full_like",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "sym_size",
        "zeros_like",
    }
)
"""Ops that read a tensor's shape alone: what they give is constant."""

CONVOLUTIONS = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
)


RECURRENT = frozenset({"lstm", "gru"})


def op_name(node: Node) -> str:
    """Name of a node's ATen op without its overload (`add`, also of `add_`); empty for others."""
    if not isinstance(node.target, OpOverload):
        return ""
    return str(node.target.overloadpacket.__name__).removesuffix("_")


_FILLINGS = {"constant_pad_nd": 2, "pad": 3}
"""By op that pads, the place of the value that it pads with."""


def filling_of(node: Node) -> float | None:
    """The value that an op puts around its input; None for what pads with no constant."""
    at = _FILLINGS.get(op_name(node))
    if at is None or (op_name(node) == "pad" and node.args[2:3] not in ((), ("constant",))):
        return None
    value = node.args[at] if at < len(node.args) else None
    return float(value or 0.0) if isinstance(value, int | float | None) else None


def hands_on(node: Node) -> bool:
    """Whether an op gives values of its input as they are."""
    name = op_name(node)
    if name == "constant_pad_nd":
        return filling_of(node) == 0.0
    return name in PASS_THROUGH or node.target is operator.getitem
