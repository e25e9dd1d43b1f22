"""Which range each tensor's grid has: the rules of a job, bound to the sites of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from autoquant.core.json_values import fields_json, from_fields, json_of


class ObserverName(Enum):
    """How the range of an int8 activation is found.

    `histogram`: torch's HistogramObserver, which clips where that lowers the expected squared
    error. `minmax`: the full range seen. `moving_average`: torch's MovingAverageMinMaxObserver,
    the ranges of the batches averaged. `percentile`: a share of the values at either end is
    clipped. `kl`: least divergence of what is rounded from what was seen. `mse`: least squared
    error, over all ranges. `mix`: for each tensor the one of these with the least error at the
    model's outputs.
    """

    HISTOGRAM = "histogram"
    MINMAX = "minmax"
    MOVING_AVERAGE = "moving_average"
    PERCENTILE = "percentile"
    KL = "kl"
    MSE = "mse"
    MIX = "mix"


@dataclass(frozen=True, slots=True)
class FixedRange:
    """A range that is known beforehand, whatever calibration saw.

    Attributes:
        name: The site that writes the tensors, or `inputs.<name>` for an input of the model.
        low: Smallest value, in the tensor's unit.
        high: Largest value.
        tensors: Node names of the tensors that have it.
        reads: Sites that write what the site reads, None for what no site writes; empty for an
            input.
        is_job: Whether the job fixes it; else the target's own numerics do.
    """

    name: str
    low: float
    high: float
    tensors: tuple[str, ...]
    reads: tuple[str | None, ...] = ()
    is_job: bool = True

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")


@dataclass(frozen=True, slots=True)
class OwnRange:
    """The range that an observer of the user's own found for int8.

    Attributes:
        tensor: Key of the tensor's statistics.
        low: Smallest value, in the tensor's unit.
        high: Largest value.
    """

    tensor: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RangeRules:
    """What decides ranges beside the observer that all sites have.

    Attributes:
        percentile: Of the observer `percentile`: this share of the values, in percent, lies below
            the upper end, and as many above the lower.
        averaging: Of the observer `moving_average`: weight of the newest batch.
        sites: Observers of single sites, by name.
        fixed: Ranges that are known beforehand.
        own: Ranges that observers of the user's own found.
        weight_bits: Of int8 weights that meet int8 activations: 8, or 7 where the target's kernels
            overflow with 8; None: not settled, and computed as 8.
    """

    percentile: float = 99.99
    averaging: float = 0.01
    sites: tuple[tuple[str, ObserverName], ...] = ()
    fixed: tuple[FixedRange, ...] = ()
    own: tuple[OwnRange, ...] = ()
    weight_bits: int | None = None

    @property
    def is_reduced(self) -> bool:
        """Whether int8 leaves out a bit, so that no kernel's sums overflow."""
        return self.weight_bits == 7

    def observer(self, site: str, default: ObserverName) -> ObserverName:
        """The observer of a site; `mix` counts as `histogram` until it is settled."""
        found = dict(self.sites).get(site, default)
        return ObserverName.HISTOGRAM if found is ObserverName.MIX else found

    def fixed_at(self, site: str) -> FixedRange | None:
        """The fixed range of what a site writes, None where it has none."""
        return next((item for item in self.fixed if item.name == site), None)

    @property
    def fixed_tensors(self) -> dict[str, FixedRange]:
        """Fixed ranges by the node names of their tensors."""
        return {tensor: item for item in self.fixed for tensor in item.tensors}

    def to_json(self) -> dict[str, Any]:
        """Give the rules as JSON values."""
        return {**fields_json(self), "sites": json_of(dict(self.sites))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RangeRules:
        """Read back what `to_json` gave, here or in a version that reduced torch's activations."""
        bits = 7 if data.get("activation_bits") == 7 else data.get("weight_bits")
        sites = tuple(data["sites"].items())
        return from_fields(cls, {**data, "sites": sites, "weight_bits": bits})
