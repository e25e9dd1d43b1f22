"""How plans are built, whatever the backend: values that travel to workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoquant.core.equalisation import Equalisation
from autoquant.core.json_values import from_fields
from autoquant.core.ranges import ObserverName, RangeRules

_STOOD_ALONE = ("engine", "kernels", "accelerator", "profile")
"""Options of single backends that older files name beside `options`."""


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What decides how a plan is built.

    Attributes:
        backend: Name of the backend.
        capture: How the model's sites were found (`export`, `modules`).
        observer: How int8 ranges are found.
        ranges: What differs from site to site, and what is known beforehand.
        equalisation: What the model is multiplied with before plans are built of it.
        options: What only this backend has, as JSON values: as its section of a job says, and what
            it settled itself. Nobody else reads them.
    """

    backend: str = "torch"
    capture: str = "export"
    observer: ObserverName = ObserverName.HISTOGRAM
    ranges: RangeRules = field(default_factory=RangeRules, repr=False)
    equalisation: Equalisation = field(default_factory=Equalisation, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def with_options(self, **changes: Any) -> BuildSettings:
        """The same with other options of the backend."""
        return replace(self, options={**self.options, **changes})

    def with_weight_bits(self, bits: int) -> BuildSettings:
        """The same with so many bits for int8 weights that meet int8 activations."""
        return replace(self, ranges=replace(self.ranges, weight_bits=bits))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildSettings:
        """Read back what `json_of` gave, here or in an earlier version."""
        stood = {key: data[key] for key in _STOOD_ALONE if data.get(key)}
        found = from_fields(cls, {**data, "options": {**stood, **data.get("options", {})}})
        reduced = data.get("reduce_range")
        return found if reduced is None else found.with_weight_bits(7 if reduced else 8)
