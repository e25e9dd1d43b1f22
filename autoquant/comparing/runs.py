"""What a quantized model must offer to be compared with its float graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.fx import Node

from autoquant.comparing.pairing import OpPair
from autoquant.core.findings.layers import TensorFormat
from autoquant.core.measurement import Kind
from autoquant.model.data.trees import tensors_of

See = Callable[[OpPair, Tensor, Tensor], None]
"""Takes a pair, the float tensor, and the quantized one as its readers see it."""

Run = Callable[[tuple[Tensor, ...], Mapping[str, Any]], Any]
"""Takes the tensors of one batch, and by node what the float graph gave; gives the outputs."""


@dataclass(frozen=True, slots=True, eq=False)
class FloatWeight:
    """A weight of the float graph.

    Attributes:
        pair: First call of its site, in both models.
        root: The op that reads it.
        name: Of the parameter.
        values: Its own.
    """

    pair: OpPair
    root: Node
    name: str
    values: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """What a quantized model keeps of a weight.

    Attributes:
        values: In float, as its kernel uses them; of as many elements as the float weight.
        format: How they are stored.
        types: Class or function of the float op, and of the quantized one.
        steps: One scale, or one for each channel along `axis`; None: errors have no steps.
        axis: Of the weight.
    """

    values: Tensor
    format: TensorFormat
    types: tuple[str, str]
    steps: Tensor | None = None
    axis: int = 0


class QuantizedModel(Protocol):
    """A quantized model to compare with its float graph."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of how ops were paired."""
        ...

    @property
    def kind(self) -> Kind:
        """`emulated` where some of its roundings are simulated in float."""
        ...

    def pairs(self) -> tuple[OpPair, ...]:
        """Its ops beside those of the float graph, in execution order."""
        ...

    def start(self, see: See, *, feeds_float: bool) -> Run:
        """Make ready to run.

        Args:
            see: Shown each pair of tensors.
            feeds_float: Whether every op is fed the float model's activations, in its format.
        """
        ...

    def type_of(self, pair: OpPair) -> str:
        """Class or function of an op: `ConvReLU2d (quantized)`, `add + relu`."""
        ...

    def format_of(self, pair: OpPair, found: Tensor) -> TensorFormat:
        """How it keeps an op's tensor that was seen."""
        ...

    def stored(self, weight: FloatWeight) -> StoredWeight | None:
        """What it keeps of a weight; None: that cannot be told."""
        ...


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first of several."""
    return next(iter(tensors_of(value)), None)
