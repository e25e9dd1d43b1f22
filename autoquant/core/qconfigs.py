"""What a QConfig says, without torch: the observers of an op's activations and weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from autoquant.core.precision import Scheme


@dataclass(frozen=True, slots=True)
class ObserverFacts:
    """An observer, before it saw anything.

    Attributes:
        name: Its class.
        dtype: Type that it quantizes to (`quint8`, `int16`, `float16`; `float32`: not at all).
        axis: Channel axis of its scales; None: one scale for the tensor.
        low: Smallest integer; None for floats.
        high: Largest integer; None for floats.
        is_dynamic: Whether the scale is found anew for each batch.
        fixed: Scale and zero point, where they do not depend on data.
    """

    name: str
    dtype: str
    axis: int | None = None
    low: int | None = None
    high: int | None = None
    is_dynamic: bool = False
    fixed: tuple[float, int] | None = None

    @property
    def is_quantizing(self) -> bool:
        """Whether it makes anything but float32 of its tensor."""
        return self.dtype != "float32" or self.is_dynamic

    @property
    def bits(self) -> int | None:
        """Bits of the range that it uses, rounded; None for floats."""
        if self.low is None or self.high is None:
            return None
        return round(math.log2(self.high - self.low + 1))

    @property
    def fixed_range(self) -> tuple[float, float] | None:
        """Bounds of what a fixed scale can hold."""
        if self.fixed is None or self.low is None or self.high is None:
            return None
        scale, zero_point = self.fixed
        return (self.low - zero_point) * scale, (self.high - zero_point) * scale


@dataclass(frozen=True, slots=True)
class QConfigFacts:
    """A QConfig.

    Attributes:
        activation: Observer of the op's inputs and outputs.
        weight: Observer of its weight.
    """

    activation: ObserverFacts
    weight: ObserverFacts

    def scheme(self, *, is_weighted: bool) -> Scheme | None:
        """The scheme that this is; None where it is none of ours.

        Args:
            is_weighted: Whether the op has a weight; else the weight's observer says nothing.
        """
        weight = self.weight.dtype if is_weighted else None
        if self.activation.is_dynamic:
            return Scheme.INT8_DYNAMIC if weight == "qint8" else None
        if not is_weighted:
            return _UNWEIGHTED.get(self.activation.dtype)
        return _WEIGHTED.get((self.activation.dtype, self.weight.dtype))

    def __str__(self) -> str:
        mode = " dynamic" if self.activation.is_dynamic else ""
        return f"{self.weight.dtype} weight, {self.activation.dtype}{mode} activation"


_WEIGHTED: Mapping[tuple[str, str], Scheme] = {
    ("quint8", "qint8"): Scheme.INT8,
    ("int16", "qint8"): Scheme.INT16,
    ("quint8", "int16"): Scheme.INT16_WEIGHT,
    ("float16", "float16"): Scheme.FP16,
    ("float32", "float16"): Scheme.FP16,
    ("float32", "quint8"): Scheme.INT8_WEIGHT_ONLY,
    ("float32", "float32"): Scheme.FP32,
}
_UNWEIGHTED: Mapping[str, Scheme] = {
    "quint8": Scheme.INT8,
    "int16": Scheme.INT16,
    "float16": Scheme.FP16,
    "float32": Scheme.FP32,
}
