"""Weights as 8-bit constants, with the ops that turn them back into floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

WeightForm = Callable[[npt.NDArray[np.float32], tuple[int, ...]], ov.Node]

_KEPT_AXES: Mapping[str, tuple[int, ...]] = {
    "Convolution": (0,),
    "GroupConvolution": (0, 1),
    "ConvolutionBackpropData": (1,),
    "GroupConvolutionBackpropData": (0, 2),
}
"""By op, the axes of its weight that count output channels."""


def channel_axes(node: ov.Node, rank: int) -> tuple[int, ...]:
    """Axes of an op's weight along which every channel has a scale of its own."""
    kind = node.get_type_name()
    if kind == "MatMul":
        return (rank - 2,) if node.get_attributes()["transpose_b"] else (rank - 1,)
    return _KEPT_AXES[kind]


def quantized(weight: npt.NDArray[np.float32], axes: tuple[int, ...]) -> ov.Node:
    """Signed 8-bit weights, symmetric on levels -127 to 127, with a scale for each channel.

    The form that OpenVINO runs in integers where the other operand is quantized too, and that it
    keeps in 8 bits, with inputs quantized on the fly, in a linear layer where it is not.
    """
    values, scale = rounded(weight, axes)
    return ops.multiply(ops.convert(ops.constant(values), "f32"), ops.constant(scale))


def compressed(weight: npt.NDArray[np.float32], axes: tuple[int, ...]) -> ov.Node:
    """The same weights, unsigned around 128: the form whose inputs OpenVINO leaves in float."""
    values, scale = rounded(weight, axes)
    shifted = (values.astype(np.int16) + 128).astype(np.uint8)
    centred = ops.subtract(
        ops.convert(ops.constant(shifted), "f32"), ops.constant(np.float32(128.0))
    )
    return ops.multiply(centred, ops.constant(scale))


def rounded(
    weight: npt.NDArray[np.float32], axes: tuple[int, ...]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round weights to levels -127 to 127 with a scale for each index of some axes.

    Returns:
        Levels of the weight's shape, and scales of a shape that multiplies with it.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > 0.0, largest / 127.0, 1.0).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale
