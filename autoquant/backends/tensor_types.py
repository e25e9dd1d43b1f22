"""In which type an op gets, gives and stores its tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeightType:
    """How a weight is stored.

    Attributes:
        dtype: `qint8`; `int16 in float32` where its values were rounded and stay floats.
        axis: Channel axis of its scales; None: one scale, or a float.
        scale_count: How many scales; 0 for floats.
    """

    dtype: str
    axis: int | None = None
    scale_count: int = 0


@dataclass(frozen=True, slots=True)
class OpTypes:
    """The types of one op's tensors.

    Attributes:
        inputs: Of what arrives; `int16 in float32` for floats on an integer grid.
        output: Of what it gives.
        weight: None where the op owns none.
    """

    inputs: tuple[str, ...]
    output: str
    weight: WeightType | None = None
