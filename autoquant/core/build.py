"""How plans are built, whatever the backend: values that travel to workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autoquant.core.kernels import Kernels
from autoquant.core.observers import ObserverName
from autoquant.core.ranges import RangeRules

CaptureMode = Literal["fx", "export", "eager"]
"""How the sites of a model are found: by torch.fx, by torch.export, or module by module."""


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What decides how a plan is built.

    Attributes:
        backend: Name of the backend.
        observer: How int8 ranges are found.
        ranges: What differs from site to site, and what is known beforehand.
        engine: torch: a quantized engine. Empty elsewhere.
        reduce_range: torch: seven bits for int8 activations; None: where this CPU needs it.
        kernels: torch: ops that take another engine's kernel.
        accelerator: Configuration of an accelerator (`ethos-u55-128`); empty where there is none.
        profile: Text of the YAML file that describes an accelerator; empty where there is none.
        capture: How the model was captured, which decides what torch can build.
    """

    backend: str = "torch"
    observer: ObserverName = ObserverName.HISTOGRAM
    ranges: RangeRules = field(default_factory=RangeRules, repr=False)
    engine: str = ""
    reduce_range: bool | None = None
    kernels: Kernels = field(default_factory=Kernels)
    accelerator: str = ""
    profile: str = field(default="", repr=False)
    capture: CaptureMode = "fx"
