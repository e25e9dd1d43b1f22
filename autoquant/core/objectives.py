"""Objectives: what a search optimizes, and the measurement behind each."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from autoquant.core.measurement import Candidate, Measurements


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
    def measurement(self) -> str:
        """Name of the measurement that it reads."""
        return _FACTS[self][0]

    @property
    def higher_is_better(self) -> bool:
        """Direction of the measurement."""
        return _FACTS[self][1]

    @property
    def is_quality(self) -> bool:
        """Whether it says how right the outputs are, rather than what they cost."""
        return self in (Objective.OUTPUT_ERROR, Objective.KL, Objective.ACCURACY)

    def loss(self, measurements: Measurements) -> float:
        """Value to minimize."""
        value = measurements[self.measurement].value
        return -value if self.higher_is_better else value


def losses_of(objectives: Sequence[Objective], candidate: Candidate) -> tuple[float, ...] | None:
    """What is minimized, of one candidate; None where it failed or was not measured whole."""
    measured = candidate.measurements
    if candidate.failure is not None or any(o.measurement not in measured for o in objectives):
        return None
    return tuple(float(objective.loss(measured)) for objective in objectives)


_FACTS = {
    Objective.OUTPUT_ERROR: ("sqnr_db", True),
    Objective.KL: ("kl", False),
    Objective.ACCURACY: ("accuracy_drop", False),
    Objective.LATENCY: ("speedup", True),
    Objective.SIZE: ("size_bytes", False),
    Objective.BOPS: ("bops_ratio", False),
    Objective.INT16_SHARE: ("int16_share", False),
}
