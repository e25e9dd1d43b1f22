"""Objectives: what a search optimizes, and the measurement behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from autoquant.core import quantities
from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.quantities import Quantity


class Objective(Enum):
    """What a job can optimize, by the name it uses.

    Each reads one measurement; `loss` turns it so that lower is better.
    """

    OUTPUT_ERROR = "output_error"
    KL = "kl"
    ACCURACY = "accuracy"
    LATENCY = "latency"
    SIZE = "size"
    BOPS = "bops"
    INT16_SHARE = "int16_share"

    @property
    def quantity(self) -> Quantity:
        """What it reads."""
        return _QUANTITIES[self]

    @property
    def measurement(self) -> str:
        """Name of the measurement that it reads."""
        return self.quantity.name

    @property
    def higher_is_better(self) -> bool:
        """Direction of the measurement."""
        return self.quantity.higher_is_better

    @property
    def is_quality(self) -> bool:
        """Whether it says how right the outputs are, rather than what they cost."""
        return self in (Objective.OUTPUT_ERROR, Objective.KL, Objective.ACCURACY)

    def loss(self, measurements: Measurements) -> float:
        """Value to minimize."""
        value = measurements[self.measurement].value
        return -value if self.higher_is_better else value


@dataclass(frozen=True, slots=True)
class OwnObjective:
    """A cost of the user's own, which adds up over ops: energy, money, silicon.

    Attributes:
        value: Its name, which is that of its measurement too.
        unit: What its values are in.
    """

    value: str
    unit: str = ""

    @property
    def quantity(self) -> Quantity:
        """What it reads."""
        return Quantity(self.value, self.value.replace("_", " "), self.unit)

    @property
    def measurement(self) -> str:
        """Name of the measurement that it reads."""
        return self.value

    @property
    def higher_is_better(self) -> bool:
        """A cost: lower is better."""
        return False

    @property
    def is_quality(self) -> bool:
        """It is what outputs cost."""
        return False

    def loss(self, measurements: Measurements) -> float:
        """Value to minimize."""
        return measurements[self.measurement].value


Goal = Objective | OwnObjective
"""What a search optimizes."""


def losses_of(goals: Sequence[Goal], candidate: Candidate) -> tuple[float, ...] | None:
    """What is minimized, of one candidate; None where it failed or was not measured whole."""
    measured = candidate.measurements
    if candidate.failure is not None or any(goal.measurement not in measured for goal in goals):
        return None
    return tuple(float(goal.loss(measured)) for goal in goals)


def own_goals(goals: Sequence[Goal]) -> tuple[OwnObjective, ...]:
    """Those of the user's own."""
    return tuple(goal for goal in goals if isinstance(goal, OwnObjective))


_QUANTITIES = {
    Objective.OUTPUT_ERROR: quantities.SQNR,
    Objective.KL: quantities.KL,
    Objective.ACCURACY: quantities.ACCURACY_DROP,
    Objective.LATENCY: quantities.SPEEDUP,
    Objective.SIZE: quantities.SIZE,
    Objective.BOPS: quantities.BOPS,
    Objective.INT16_SHARE: quantities.INT16_SHARE,
}
