"""Weights as integer constants, with the ops that turn them back into floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch
from openvino import opset13 as ops

from autoquant.backends.byte_codes import byte_codes
from autoquant.model.numerics.weight_grids import GroupGrid

WeightForm = Callable[[npt.NDArray[np.float32], tuple[int, ...]], ov.Node]

_KEPT_AXES: Mapping[str, tuple[int, ...]] = {
    "Gather": (0,),
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


def quantized(bits: int, weight: npt.NDArray[np.float32], axes: tuple[int, ...]) -> ov.Node:
    """Signed 8-bit weights, symmetric on levels of 8 or 7 bits, with a scale for each channel.

    The form that OpenVINO runs in integers where the other operand is quantized too, and that it
    keeps in 8 bits, with inputs quantized on the fly, in a linear layer where it is not.
    """
    values, scale = byte_codes(weight, axes, bits)
    return ops.multiply(ops.convert(ops.constant(values), "f32"), ops.constant(scale))


def compressed(weight: npt.NDArray[np.float32], axes: tuple[int, ...]) -> ov.Node:
    """The same weights, unsigned around 128: the form whose inputs OpenVINO leaves in float."""
    values, scale = byte_codes(weight, axes)
    shifted = (values.astype(np.int16) + 128).astype(np.uint8)
    centred = ops.subtract(
        ops.convert(ops.constant(shifted), "f32"), ops.constant(np.float32(128.0))
    )
    return ops.multiply(centred, ops.constant(scale))


def grouped(size: int, weight: npt.NDArray[np.float32], axes: tuple[int, ...]) -> ov.Node:
    """Unsigned 4-bit weights around 8, with a scale for each group of so many along a row.

    The form that OpenVINO keeps in 4 bits and multiplies in float.
    """
    is_transposed = axes == (0,)
    rows = torch.tensor(weight if is_transposed else weight.T)
    levels, scale = GroupGrid(size).codes(rows)
    codes = (levels.numpy() + 8).astype(np.uint8).reshape(-1)
    tensor = ov.Tensor(codes[0::2] | (codes[1::2] << 4), list(levels.shape), ov.Type.u4)
    stored = ov.op.Constant(tensor, shared_memory=False)
    centred = ops.subtract(ops.convert(stored, "f32"), ops.constant(np.float32(8.0)))
    scaled = ops.multiply(centred, ops.constant(scale.numpy()[:, :, None]))
    flat = ops.reshape(scaled, ops.constant(np.array(rows.shape, np.int64)), False)
    return flat if is_transposed else ops.transpose(flat, ops.constant(np.array([1, 0])))
