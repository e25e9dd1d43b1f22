"""How plans are built, whatever the backend: values that travel to workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoquant.core.equalisation import Equalisation
from autoquant.core.kernels import Kernels
from autoquant.core.observers import ObserverName
from autoquant.core.ranges import RangeRules


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What decides how a plan is built.

    Attributes:
        backend: Name of the backend.
        capture: How the model's sites were found (`export`, `modules`).
        observer: How int8 ranges are found.
        ranges: What differs from site to site, and what is known beforehand.
        engine: torch: a quantized engine. Empty elsewhere.
        reduce_range: torch: seven bits for int8 activations; None: where this CPU needs it.
        kernels: torch: ops that take another engine's kernel.
        accelerator: Configuration of an accelerator (`ethos-u55-128`); empty where there is none.
        profile: Text of the YAML file that describes an accelerator; empty where there is none.
        equalisation: What the model is multiplied with before plans are built of it.
        options: What only a backend of another package has, as its section of a job says.
    """

    backend: str = "torch"
    capture: str = "export"
    observer: ObserverName = ObserverName.HISTOGRAM
    ranges: RangeRules = field(default_factory=RangeRules, repr=False)
    engine: str = ""
    reduce_range: bool | None = None
    kernels: Kernels = field(default_factory=Kernels)
    accelerator: str = ""
    profile: str = field(default="", repr=False)
    equalisation: Equalisation = field(default_factory=Equalisation, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """Give the settings as JSON values."""
        return {
            "backend": self.backend,
            "capture": self.capture,
            "observer": self.observer.value,
            "ranges": self.ranges.to_json(),
            "engine": self.engine,
            "reduce_range": self.reduce_range,
            "kernels": self.kernels.to_json(),
            "accelerator": self.accelerator,
            "profile": self.profile,
            "equalisation": self.equalisation.to_json(),
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildSettings:
        """Read back what `to_json` gave."""
        reduce_range = data["reduce_range"]
        return cls(
            backend=str(data["backend"]),
            capture=str(data["capture"]),
            observer=ObserverName(data["observer"]),
            ranges=RangeRules.from_json(data["ranges"]),
            engine=str(data["engine"]),
            reduce_range=None if reduce_range is None else bool(reduce_range),
            kernels=Kernels.from_json(data["kernels"]),
            accelerator=str(data["accelerator"]),
            profile=str(data["profile"]),
            equalisation=Equalisation.from_json(data.get("equalisation", Equalisation().to_json())),
            options=data.get("options", {}),
        )
