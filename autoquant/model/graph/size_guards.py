"""What an exported graph takes for granted of the sizes of its inputs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP

from autoquant.model.data.calling import Calling

_NAMES = {**SYMPY_INTERP, "math": math, "inf": math.inf}


@dataclass(frozen=True, slots=True, eq=False)
class SizeGuards:
    """Conditions on sizes that held when a model was exported.

    Where its Python branches on a size (`if x.shape[1] % 2`), the graph is the branch that was
    taken. Conditions also come from torch's own choices of strides, which change no result: a
    broken one says that the model may compute something else, and no more.

    Attributes:
        conditions: In Python, over `L`: the arguments of forward by name.
        signature: Of the forward.
        calling: How the model takes its tensors.
    """

    conditions: tuple[str, ...]
    signature: inspect.Signature
    calling: Calling

    @classmethod
    def of(cls, program: ExportedProgram, model: nn.Module, calling: Calling) -> SizeGuards:
        """Those of a program, as torch.export gives it."""
        found = tuple(getattr(program, "_guards_code", ()))
        return cls(found, inspect.signature(model.forward), calling)

    def broken(self, shapes: Sequence[Sequence[int]]) -> frozenset[str]:
        """The conditions that inputs of such shapes do not fulfil."""
        tensors = [torch.empty(list(shape), device="meta") for shape in shapes]
        args, kwargs = self.calling.arguments(tensors)
        names: dict[str, Any] = {**_NAMES, "L": self.signature.bind(*args, **kwargs).arguments}
        return frozenset(item for item in self.conditions if not _holds(item, names))


def _holds(condition: str, names: dict[str, Any]) -> bool:
    try:
        return bool(eval(condition, names))
    except (ArithmeticError, LookupError, NameError, AttributeError, TypeError):
        return False  # nothing is known of it: then outputs are compared
