"""Modules that their user quantizes as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from autoquant.model.calibration.ranges.grid import Grid


@dataclass(frozen=True, slots=True)
class Observed:
    """The int8 grids that calibration finds for a module, by the job's observers and ranges.

    Attributes:
        reads: Of the first tensor that it reads.
        gives: Of the first that it gives.
    """

    reads: Grid
    gives: Grid


@dataclass(frozen=True, slots=True)
class CustomModule:
    """How modules of a class are quantized: the class has it as its attribute `autoquant`.

    A model with such a module is captured module by module, the module is a site of kind `custom`,
    and what it holds has none.

    Attributes:
        int8: Given a float module and what was observed of it, makes the module that computes the
            same in int8. That takes and gives float tensors, as the float one does, and is made
            once for all plans.
    """

    int8: Callable[[nn.Module, Observed], nn.Module]


def custom_module(module: nn.Module) -> CustomModule | None:
    """How a module is quantized as a whole; None: it is not."""
    found = getattr(type(module), "autoquant", None)
    return found if isinstance(found, CustomModule) else None


def custom_modules(model: nn.Module) -> tuple[str, ...]:
    """Paths of a model's custom modules, those within others left out."""
    found: list[str] = []
    for path, module in model.named_modules():
        is_within = any(path.startswith(f"{outer}.") for outer in found)
        if path and not is_within and custom_module(module) is not None:
            found.append(path)
    return tuple(found)
