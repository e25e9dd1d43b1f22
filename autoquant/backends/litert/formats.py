"""Formats: the type of a tensor of a `.tflite` file, with its scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoquant.backends.litert.operators import FIXED_INT8, FIXED_INT16, MOVED_INPUT, MOVES
from autoquant.backends.litert.schema import Array, Graph, affine
from autoquant.core.precision import Scheme
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges

TYPES: Mapping[Scheme, str] = {
    Scheme.INT8: "INT8",
    Scheme.INT16: "INT16",
    Scheme.FP16: "FLOAT16",
    Scheme.FP32: "FLOAT32",
}
"""The type in which a scheme keeps activations."""

LIMITS = {"INT8": (-128, 127), "INT16": (-32768, 32767)}

_INTEGERS = frozenset({Scheme.INT8, Scheme.INT16})
_KEEPS_VALUES = frozenset(
    {"CONCATENATION", "RESHAPE", "SLICE", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE"}
)
_CLAMPS = {1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
"""Bounds of an operator's own activation, by its code: relu, relu_n1_to_1, relu6."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a tensor is stored.

    Attributes:
        type_name: `INT8`, `INT16`, `FLOAT16` or `FLOAT32`.
        scale: Of one step; 0 for floats.
        zero_point: What is stored for 0.
    """

    type_name: str
    scale: float = 0.0
    zero_point: int = 0

    @property
    def is_float(self) -> bool:
        """Whether it needs no scale."""
        return self.type_name.startswith("FLOAT")

    @property
    def quantization(self) -> Any:
        """The same as the file keeps it."""
        if self.is_float:
            return None
        return affine(np.array([self.scale]), np.array([self.zero_point]))

    def store(self, values: Array) -> Array:
        """Round real values to this format."""
        if self.is_float:
            return values.astype(np.float16 if self.type_name == "FLOAT16" else np.float32)
        low, high = LIMITS[self.type_name]
        stored = np.clip(np.round(values / self.scale) + self.zero_point, low, high)
        return stored.astype(np.int8 if self.type_name == "INT8" else np.int16)


FLOAT32 = Format("FLOAT32")
FLOAT16 = Format("FLOAT16")


def _float_format(scheme: Scheme) -> Format | None:
    """The format of a scheme of floats; None: it is one of integers."""
    if scheme is Scheme.FP32:
        return FLOAT32
    if scheme is Scheme.FP16:
        return FLOAT16
    if scheme not in _INTEGERS:
        raise ValueError(f"LiteRT has no format for {scheme.value}")
    return None


def _spanning(low: float, high: float, scheme: Scheme) -> Format:
    """256 affine levels from `low` to `high`, or 65535 around 0."""
    if scheme is Scheme.INT16:
        return Format("INT16", max(-low, high) / 32767)
    scale = (high - low) / 255
    return Format("INT8", scale, round(-128 - low / scale))


class Formats:
    """Finds the format of each tensor of a converted file under each scheme.

    Args:
        graph: The converted float file.
        nodes: By tensor, the captured node whose value it holds.
        ranges: Of the captured nodes.
    """

    def __init__(self, graph: Graph, nodes: Mapping[int, str], ranges: TensorRanges) -> None:
        self._graph = graph
        self._nodes = nodes
        self._ranges = ranges
        self._writers = {t: op for op in graph.operators for t in graph.writes(op)}
        self._readers: dict[int, list[Any]] = {}
        for operator in graph.operators:
            for tensor in graph.reads(operator):
                self._readers.setdefault(tensor, []).append(operator)

    def of(self, tensor: int, scheme: Scheme) -> Format | None:
        """Format of a tensor that is read or written under a scheme.

        Returns:
            None where the tensor has no range: the converter made it, and nothing bounds it.
        """
        if scheme in _INTEGERS:
            return self._written(tensor, scheme) or self._handed_on(tensor, scheme)
        return _float_format(scheme)

    def _written(self, tensor: int, scheme: Scheme) -> Format | None:
        """By what is known of it, or of what moved its values there."""
        fixed = self._fixed(tensor, scheme)
        if fixed is not None:
            return fixed
        node = self._nodes.get(tensor)
        if node is not None:
            return self._calibrated(node, scheme)
        return self._derived(tensor, scheme)

    def _fixed(self, tensor: int, scheme: Scheme) -> Format | None:
        writer = self._writers.get(tensor)
        name = "" if writer is None else self._graph.op_name(writer)
        if scheme is Scheme.INT8 and name in FIXED_INT8:
            return Format("INT8", *FIXED_INT8[name])
        if scheme is Scheme.INT16 and name in FIXED_INT16:
            return Format("INT16", FIXED_INT16[name])
        return None

    def _calibrated(self, node: str, scheme: Scheme) -> Format | None:
        try:
            if scheme is Scheme.INT16:
                return Format("INT16", self._ranges.int16_grid(node).scale)
            grid = self._ranges.int8_grid(node)
            return Format("INT8", grid.scale, grid.zero_point - 128)
        except ValueError:  # calibration saw no such tensor: it holds no activation
            return None

    def _derived(self, tensor: int, scheme: Scheme) -> Format | None:
        """From what the writer moves, or from the bounds of its activation."""
        writer = self._writers.get(tensor)
        if writer is None:
            return None
        name = self._graph.op_name(writer)
        if name in MOVES:
            return self._written(self._graph.reads(writer)[MOVED_INPUT.get(name, 0)], scheme)
        code = getattr(writer.builtinOptions, "fusedActivationFunction", 0)
        low, high = _CLAMPS.get(code, (None, None))
        if low is None or high is None:
            return None
        return _spanning(low, high, scheme)

    def _handed_on(self, tensor: int, scheme: Scheme) -> Format | None:
        """That of what its one reader cuts out of it, or joins it to."""
        readers = self._readers.get(tensor, [])
        if len(readers) != 1 or self._graph.op_name(readers[0]) not in _KEEPS_VALUES:
            return None
        (made,) = self._graph.writes(readers[0])
        return self._written(made, scheme) or self._handed_on(made, scheme)


def constant_format(values: Array, scheme: Scheme) -> Format:
    """Format of a constant operand, from its own smallest and largest value."""
    known = _float_format(scheme)
    if known is not None:
        return known
    finite = values[np.isfinite(values)]
    low = float(min(finite.min(initial=0.0), 0.0))
    high = float(max(finite.max(initial=0.0), 0.0))
    if low == high:
        high = 1.0
    return _spanning(low, high, scheme)
