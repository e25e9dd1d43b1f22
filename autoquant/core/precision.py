"""Number formats, and the schemes a user chooses for an op."""

from __future__ import annotations

from enum import Enum


class Precision(Enum):
    """A number format.

    >>> Precision.INT16.bits, Precision.BF16.is_float
    (16, True)
    """

    INT8 = "int8"
    INT16 = "int16"
    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def bits(self) -> int:
        """Storage of one element."""
        return _BITS[self]

    @property
    def is_float(self) -> bool:
        """Whether the format carries its own exponent, so that it needs no scale."""
        return self in (Precision.FP16, Precision.BF16, Precision.FP32)


_BITS = {
    Precision.INT8: 8,
    Precision.INT16: 16,
    Precision.FP16: 16,
    Precision.BF16: 16,
    Precision.FP32: 32,
}


class Mode(Enum):
    """When the scale of the activations is fixed."""

    STATIC = "static"
    DYNAMIC = "dynamic"
    WEIGHT_ONLY = "weight_only"


class Scheme(Enum):
    """How one op computes: weight and activation precision, and when scales are fixed.

    The names are those of job files, plans and reports. `int16` keeps weights in int8, which is
    what NPUs with 16-bit activations run (w8a16); `int16_weight` is the reverse.

    >>> Scheme("int16").weight.value, Scheme("int16").activation.value
    ('int8', 'int16')
    """

    INT8 = "int8"
    INT8_DYNAMIC = "int8_dynamic"
    INT8_WEIGHT_ONLY = "int8_weight_only"
    INT16 = "int16"
    INT16_WEIGHT = "int16_weight"
    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    __hash__ = object.__hash__  # Enum's own hashes the name, in Python; schemes are keys everywhere

    @property
    def weight(self) -> Precision:
        """Format in which weights are stored."""
        return _FACTS[self][0]

    @property
    def activation(self) -> Precision:
        """Format of the op's inputs and outputs."""
        return _FACTS[self][1]

    @property
    def mode(self) -> Mode:
        """When activation scales are fixed; floats count as static."""
        return _FACTS[self][2]

    @property
    def is_static_integer(self) -> bool:
        """Whether activations carry a scale fixed by calibration."""
        return self.mode is Mode.STATIC and not self.activation.is_float


_FACTS = {
    Scheme.INT8: (Precision.INT8, Precision.INT8, Mode.STATIC),
    Scheme.INT8_DYNAMIC: (Precision.INT8, Precision.INT8, Mode.DYNAMIC),
    Scheme.INT8_WEIGHT_ONLY: (Precision.INT8, Precision.FP32, Mode.WEIGHT_ONLY),
    Scheme.INT16: (Precision.INT8, Precision.INT16, Mode.STATIC),
    Scheme.INT16_WEIGHT: (Precision.INT16, Precision.INT8, Mode.STATIC),
    Scheme.FP16: (Precision.FP16, Precision.FP16, Mode.STATIC),
    Scheme.BF16: (Precision.BF16, Precision.BF16, Mode.STATIC),
    Scheme.FP32: (Precision.FP32, Precision.FP32, Mode.STATIC),
}


class Support(Enum):
    """How a target runs one scheme of one kind of op."""

    NATIVE = "native"
    EMULATED = "emulated"
    UNSUPPORTED = "unsupported"
