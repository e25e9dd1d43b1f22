"""The forms in which a lowered graph holds a float tensor of the model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch.fx import Node

from autoquant.model.calibration.ranges.grid import Grid


class Form(Enum):
    """A way to hold a float tensor; `INTEGERS` are on the tensor's int8 grid."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    QUINT8 = "quint8"
    UINT8 = "uint8"

    @property
    def dtype(self) -> torch.dtype:
        """Torch's type; `quint8` tensors carry their grid, `uint8` ones are plain."""
        found: torch.dtype = getattr(torch, self.value)
        return found


INTEGERS = (Form.QUINT8, Form.UINT8)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of the float graph as a node of the lowered one.

    Attributes:
        node: Of the lowered graph.
        form: How it holds the tensor.
        grid: Of integers; None for floats.
    """

    node: Node
    form: Form
    grid: Grid | None = None

    @property
    def numbers(self) -> tuple[float, int]:
        """Scale and zero point of integers."""
        if self.grid is None:
            raise ValueError(f"{self.node} has no grid")
        return self.grid.numbers
