"""Number formats, and the schemes a user chooses for an op."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Precision(Enum):
    """A number format.

    >>> Precision.INT16.bits, Precision.BF16.is_float
    (16, True)
    """

    INT4 = "int4"
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
    Precision.INT4: 4,
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


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale for each output channel, or for the tensor where the kernel has one for all."""


@dataclass(frozen=True, slots=True)
class PerGroup:
    """One scale for so many weights that follow each other along the input axis."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a group holds {self.size} weights")


Granularity = PerChannel | PerGroup
"""Which weights share a scale."""


@dataclass(frozen=True, slots=True)
class Formats:
    """What a scheme is.

    Attributes:
        weight: Format in which weights are stored.
        activation: Format of the op's inputs and outputs.
        mode: When activation scales are fixed; floats count as static.
        granularity: Of the weights' scales, where they have any.
    """

    weight: Precision
    activation: Precision
    mode: Mode = Mode.STATIC
    granularity: Granularity = PerChannel()


class Scheme(Enum):
    """How one op computes, by the short name of job files, plans and reports.

    What a scheme is, stands in its `Formats`: a new one is a member, a row of the table below,
    and whatever an engine needs to run it. The order is from the cheapest to the most precise.
    `int16` keeps weights in int8, which is what NPUs with 16-bit activations run; `int16_weight`
    is the reverse. Where weights alone are integers, activations are floats, and so are the scales,
    in the same format.

    >>> Scheme("int16").weight.value, Scheme("int16").title
    ('int8', 'int16 (w8a16)')
    >>> Scheme("int4_weight_only").granularity
    PerGroup(size=32)
    """

    INT4_WEIGHT_ONLY_128 = "int4_weight_only_128"
    INT4_WEIGHT_ONLY_64 = "int4_weight_only_64"
    INT4_WEIGHT_ONLY = "int4_weight_only"
    INT8 = "int8"
    INT8_DYNAMIC = "int8_dynamic"
    INT8_WEIGHT_ONLY_BF16 = "int8_weight_only_bf16"
    INT8_WEIGHT_ONLY = "int8_weight_only"
    INT16 = "int16"
    INT16_WEIGHT = "int16_weight"
    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    __hash__ = object.__hash__  # Enum's own hashes the name, in Python; schemes are keys everywhere

    @property
    def formats(self) -> Formats:
        """All that the scheme is."""
        return _FORMATS[self]

    @property
    def weight(self) -> Precision:
        """Format in which weights are stored."""
        return _FORMATS[self].weight

    @property
    def activation(self) -> Precision:
        """Format of the op's inputs and outputs."""
        return _FORMATS[self].activation

    @property
    def mode(self) -> Mode:
        """When activation scales are fixed; floats count as static."""
        return _FORMATS[self].mode

    @property
    def granularity(self) -> Granularity:
        """Which weights share a scale."""
        return _FORMATS[self].granularity

    @property
    def group(self) -> int | None:
        """How many weights share a scale along the input axis; None: a whole channel."""
        granularity = self.granularity
        return granularity.size if isinstance(granularity, PerGroup) else None

    @property
    def is_static_integer(self) -> bool:
        """Whether activations carry a scale fixed by calibration."""
        return self.mode is Mode.STATIC and not self.activation.is_float

    @property
    def title(self) -> str:
        """The name as people are shown it: with bits or group, where it does not say them."""
        if self.group is not None:
            return f"{self.value} (groups of {self.group})"
        if self.weight.is_float or self.mode is not Mode.STATIC or self.weight is self.activation:
            return self.value
        return f"{self.value} (w{self.weight.bits}a{self.activation.bits})"


def _by_group(size: int) -> Formats:
    """Weights in int4, a scale for each group of them; all arithmetic in float."""
    return Formats(Precision.INT4, Precision.FP32, Mode.WEIGHT_ONLY, PerGroup(size))


_FORMATS = {
    Scheme.INT4_WEIGHT_ONLY_128: _by_group(128),
    Scheme.INT4_WEIGHT_ONLY_64: _by_group(64),
    Scheme.INT4_WEIGHT_ONLY: _by_group(32),
    Scheme.INT8: Formats(Precision.INT8, Precision.INT8),
    Scheme.INT8_DYNAMIC: Formats(Precision.INT8, Precision.INT8, Mode.DYNAMIC),
    Scheme.INT8_WEIGHT_ONLY_BF16: Formats(Precision.INT8, Precision.BF16, Mode.WEIGHT_ONLY),
    Scheme.INT8_WEIGHT_ONLY: Formats(Precision.INT8, Precision.FP32, Mode.WEIGHT_ONLY),
    Scheme.INT16: Formats(Precision.INT8, Precision.INT16),
    Scheme.INT16_WEIGHT: Formats(Precision.INT16, Precision.INT8),
    Scheme.FP16: Formats(Precision.FP16, Precision.FP16),
    Scheme.BF16: Formats(Precision.BF16, Precision.BF16),
    Scheme.FP32: Formats(Precision.FP32, Precision.FP32),
}
BY_GROUP = tuple(scheme for scheme in Scheme if scheme.group is not None)
"""Schemes whose weights have a scale for each group."""


class Support(Enum):
    """How a target runs one scheme of one kind of op."""

    NATIVE = "native"
    EMULATED = "emulated"
    UNSUPPORTED = "unsupported"

    @classmethod
    def native_if(cls, condition: bool) -> Support:
        """Native where a kernel is, else unsupported."""
        return cls.NATIVE if condition else cls.UNSUPPORTED
