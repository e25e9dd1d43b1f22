"""The user's constraints on a candidate."""

from __future__ import annotations

from dataclasses import dataclass

from autoquant.core.measurement import Candidate, Measurements
from autoquant.job import Constraints


@dataclass(frozen=True, slots=True)
class Limits:
    """Constraints, with the float model's measurements that they refer to."""

    constraints: Constraints
    baseline: Measurements

    def violations(self, candidate: Candidate) -> dict[str, float]:
        """How far each constraint is exceeded, by its name; 0 or less is within it.

        A constraint on something that was not measured counts as kept.
        """
        found = candidate.measurements
        limits, excess = self.constraints, dict[str, float]()
        if limits.accuracy_drop is not None and "accuracy_drop" in found:
            excess["accuracy_drop"] = found["accuracy_drop"].value - limits.accuracy_drop
        if limits.latency_ratio is not None and "speedup" in found:
            excess["latency_ratio"] = 1.0 / found["speedup"].value - limits.latency_ratio
        if limits.size_ratio is not None and "size_bytes" in found:
            ratio = found["size_bytes"].value / self.baseline["size_bytes"].value
            excess["size_ratio"] = ratio - limits.size_ratio
        if limits.int16_share is not None:
            excess["int16_share"] = candidate.plan.int16_share - limits.int16_share
        return excess

    def kept_by(self, candidate: Candidate) -> bool:
        """Whether a candidate succeeded and keeps every constraint."""
        return candidate.failure is None and all(
            item <= 0 for item in self.violations(candidate).values()
        )
