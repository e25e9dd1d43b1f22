"""What fine-tuning gives back: the trained model, its engine build, and how it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autoquant.core.findings.finetuning import Check, Recovery, Trial
from autoquant.core.glance import Glance, Glanced
from autoquant.core.json_values import fields_json
from autoquant.core.plan import Plan
from autoquant.core.ranges import OwnRange
from autoquant.core.statistics import CalibrationStatistics

FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FinetuneResult(Glanced):
    """A plan, trained.

    Attributes:
        plan: What was trained; training changes no scheme.
        model: The float model with the trained weights; a copy, in eval mode.
        quantized: The plan built from it by the engine, ready to run.
        statistics: Ranges that belong to the trained weights.
        learning_rate: That the training began with.
        ranges: `frozen`, `updated` or `learned`.
        trials: What the learning-rate probe tried.
        checks: The training, check by check (emulated).
        best: The check whose weights were kept.
        steps: Steps done in all, those of the probe included.
        stopped: Why training ended early, None where it did not.
        recoveries: How the plan does before and after, on the evaluation and the held-out data.
        folder: Where everything was written, None where nothing was.
        learned: The int8 ranges that training learned.
    """

    plan: Plan
    model: nn.Module
    quantized: nn.Module
    statistics: CalibrationStatistics
    learning_rate: float
    ranges: str
    trials: tuple[Trial, ...]
    checks: tuple[Check, ...]
    best: Check
    steps: int
    stopped: str | None
    recoveries: tuple[Recovery, ...]
    folder: Path | None
    learned: tuple[OwnRange, ...] = ()

    @property
    def recovery(self) -> Recovery:
        """On the held-out data where there are any, else on the evaluation data."""
        return self.recoveries[-1]

    @property
    def glance(self) -> Glance:
        """The plan before and after, on the held-out data where there are any."""
        found = self.recovery
        rows = [
            (
                name,
                f"{item.score.value:.4f}",
                f"{item.drop.value:.4f} ± {item.drop.stderr or 0.0:.4f}",
            )
            for name, item in (
                ("plan before training", found.before),
                ("plan after training", found.after),
                ("float with the trained weights", found.trained_float),
            )
        ]
        title = f"gain {found.gain.value:.4f} ± {found.gain.stderr or 0.0:.4f} on {found.data} data"
        return Glance(title, ("model", "metric", "drop against float"), rows)

    def to_json(self) -> dict[str, Any]:
        """Give all figures as JSON values."""
        left = {"model", "quantized", "statistics", "folder"}
        if not self.learned:
            left.add("learned")
        return {"format": FORMAT, "digest": self.plan.digest, **fields_json(self, but=left)}
