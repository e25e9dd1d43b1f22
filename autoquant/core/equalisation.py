"""Equalisation: what the channels of a model's parameters are multiplied with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod

from autoquant.errors import JobError


class Equalise(Enum):
    """Whether a model is equalised before its plans are built."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"

    @classmethod
    def named(cls, text: str) -> Equalise:
        """Give the member of a name."""
        known = {item.value: item for item in cls}
        if text not in known:
            hint = f"choose one of {', '.join(known)}"
            raise JobError(f"equalise: {text!r} is unknown", hint=hint)
        return known[text]


@dataclass(frozen=True, slots=True)
class Factor:
    """What a parameter or buffer of a model is multiplied with.

    Attributes:
        name: Its path.
        shape: Of the factor; it is broadcast to the parameter's.
        values: Row by row.
    """

    name: str
    shape: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if prod(self.shape) != len(self.values):
            raise ValueError(f"{len(self.values)} values cannot have the shape {self.shape}")


@dataclass(frozen=True, slots=True)
class Equalisation:
    """A rescaling of a model's channels that keeps its function.

    Attributes:
        weights: Digest of the rescaled model's weights.
        factors: Each is applied in turn; a parameter may have several. None: the model as given.
    """

    weights: str = ""
    factors: tuple[Factor, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.factors)
