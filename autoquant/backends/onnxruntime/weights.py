"""Weights and biases as constants of the graph; each is rounded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto

from autoquant.backends.onnxruntime.float_graph import FloatGraph
from autoquant.backends.onnxruntime.grids import (
    Array,
    ByteWeight,
    byte_weight,
    sum_codes,
    type_of,
)
from autoquant.backends.onnxruntime.writer import GraphWriter
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.numerics.weight_grids import GroupGrid

BLOCK = 128
"""Weights of one scale in MatMulNBits; the largest that all its releases take."""

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ByteLayer:
    """Names of the constants of an int8 layer.

    Attributes:
        codes: int8.
        scale: float, one for each output channel.
        zero_point: int8 zeros.
        bias: int32 on the grid of the sums, or empty.
        bias_scale: Of the bias.
        bias_zero_point: int32 zeros.
    """

    codes: str
    scale: str
    zero_point: str
    bias: str = ""
    bias_scale: str = ""
    bias_zero_point: str = ""


class Weights:
    """Rounds the weights of a float graph.

    Args:
        graph: The float graph.
        bits: Of weights that meet int8 activations.
    """

    def __init__(self, graph: FloatGraph, bits: int) -> None:
        self._graph = graph
        self.bits = bits
        self._made: dict[tuple[str, str, float], Mapping[str, Array | TensorProto]] = {}

    def static(
        self,
        writer: GraphWriter,
        name: str,
        weight: str,
        *,
        axis: int | None,
        bias: Array | None,
        grid: Grid,
    ) -> ByteLayer:
        """Write an int8 weight, and its bias as int32.

        Args:
            writer: Where to.
            name: Of the layer's node.
            weight: The float initializer.
            axis: Dimension of its output channels; None: all share one scale.
            bias: Shape (channels,).
            grid: Of the input.
        """
        input_scale, bits = grid.scale, self.bits if type_of(grid) == "uint8" else 8

        def make() -> dict[str, Array]:
            rounded = byte_weight(self._values(weight), axis, bias, input_scale, bits=bits)
            arrays = _weight_arrays(rounded)
            if bias is not None:
                arrays["bias"] = sum_codes(bias, input_scale, rounded)
                arrays["bias_scale"] = np.float32(input_scale) * rounded.scale
                arrays["bias_zero_point"] = np.zeros(rounded.scale.shape, np.int32)
            return arrays

        return ByteLayer(*self._write(writer, name, "static", make, input_scale))

    def transposed(self, writer: GraphWriter, name: str, weight: str, *, axis: int) -> ByteLayer:
        """Write the int8 weight of a linear layer as (inputs, outputs)."""

        def make() -> dict[str, Array]:
            rounded = byte_weight(self._values(weight), axis, bits=self.bits)
            codes = rounded.codes if axis == 1 else rounded.codes.T
            return _weight_arrays(ByteWeight(np.ascontiguousarray(codes), rounded.scale))

        return ByteLayer(*self._write(writer, name, "dynamic", make))

    def blocks(self, writer: GraphWriter, name: str, weight: str, *, axis: int) -> Names:
        """Write the int8 weight of a linear layer as MatMulNBits takes it: codes and scales.

        Every block of a row has the scale of its row; what fills the last block is 0.
        """

        def make() -> dict[str, Array]:
            rounded = byte_weight(self._values(weight), axis)
            rows = rounded.codes.T if axis == 1 else rounded.codes
            outputs, inputs = rows.shape
            count = -(-inputs // BLOCK)
            filled = np.zeros((outputs, count * BLOCK), np.int16)
            filled[:, :inputs] = rows
            codes = (filled + 128).astype(np.uint8).reshape(outputs, count, BLOCK)
            return {"blocks": codes, "block_scales": np.repeat(rounded.scale, count)}

        return self._write(writer, name, "blocks", make)

    def groups(self, writer: GraphWriter, name: str, weight: str, *, axis: int, size: int) -> Names:
        """Write the int4 weight of a linear layer as MatMulNBits takes it: codes and scales.

        Two levels to a byte, the first in its lower half; 8 stands for zero.
        """

        def make() -> dict[str, Array]:
            levels, scales = self._grouped(weight, axis, size)
            return {"groups": _pack(levels), "group_scales": scales.reshape(-1)}

        return self._write(writer, name, f"groups of {size}", make)

    def grouped_rows(self, writer: GraphWriter, name: str, weight: str, *, size: int) -> Names:
        """Write the int4 table of an embedding: codes, scales and zero points."""

        def make() -> dict[str, Array | TensorProto]:
            levels, scales = self._grouped(weight, 0, size)
            table = levels.reshape(len(levels), -1)[:, : self._values(weight).shape[1]]
            zeros = np.zeros(scales.shape, np.int8)
            return {
                "grouped": _four_bits(table),
                "row_scales": scales,
                "row_zeros": _four_bits(zeros),
            }

        return self._write(writer, name, f"rows in groups of {size}", make)

    def _grouped(self, weight: str, axis: int, size: int) -> tuple[Array, Array]:
        """Levels (rows, groups, size) and scales (rows, groups), by the reference's own grid."""
        values = self._values(weight)
        rows = torch.tensor(values.T if axis == 1 else values)
        levels, scales = GroupGrid(size).codes(rows)
        return levels.numpy(), scales.numpy()

    def rows(self, writer: GraphWriter, name: str, weight: str) -> Names:
        """Write the int8 table of an embedding: codes, and scales of shape (rows, 1)."""

        def make() -> dict[str, Array]:
            rounded = byte_weight(self._values(weight), 0)
            return {"rows": rounded.codes, "row_scales": rounded.scale[:, None]}

        return self._write(writer, name, "rows", make)

    def as_int8_floats(self, writer: GraphWriter, name: str, weight: str, *, axis: int) -> str:
        """Write a weight rounded to int8 as float, which is too large to be kept."""
        rounded = byte_weight(self._values(weight), axis)
        shape = [1] * rounded.codes.ndim
        shape[axis] = -1
        values = rounded.codes * rounded.scale.reshape(shape)
        return writer.constant(f"{name}/int8_floats", values.astype(np.float32))

    def as_half_floats(self, writer: GraphWriter, name: str, weight: str) -> str:
        """Write a weight rounded to half precision as float, which is too large to be kept."""
        values = self._values(weight).astype(np.float16).astype(np.float32)
        return writer.constant(f"{name}/half_floats", values)

    def _values(self, weight: str) -> Array:
        found = self._graph.initializers.get(weight)
        if found is None:
            raise ValueError(f"{weight!r} is no initializer")
        return found

    def _write(
        self,
        writer: GraphWriter,
        name: str,
        form: str,
        make: Callable[[], Mapping[str, Array | TensorProto]],
        scale: float = 0.0,
    ) -> Names:
        """Write what is made once, by the part of its name; gives their names."""
        key = (name, form, scale)
        if key not in self._made:
            self._made[key] = make()
        return tuple(writer.constant(f"{name}/{part}", it) for part, it in self._made[key].items())


def _pack(levels: Array) -> Array:
    """Levels from -8 to 7 as 0 to 15, two to a byte along the last axis."""
    codes = (levels + 8).astype(np.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def _four_bits(levels: Array) -> TensorProto:
    """Levels from -8 to 7 as a tensor of unsigned 4-bit integers."""
    flat = levels.reshape(-1)
    packed = _pack(np.concatenate([flat, np.zeros(flat.size % 2, flat.dtype)]))
    return TensorProto(data_type=TensorProto.UINT4, dims=levels.shape, raw_data=packed.tobytes())


def _weight_arrays(weight: ByteWeight) -> dict[str, Array]:
    return {
        "codes": weight.codes,
        "scale": weight.scale,
        "zero_point": np.zeros(weight.scale.shape, np.int8),
    }
