"""Fine-tuning a plan as values: what can be chosen, and what was tried and found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from autoquant.core.json_values import fields_json
from autoquant.core.measurement import Measurement


class BatchNorm(Enum):
    """What becomes of batch norms that run as part of the layer before them.

    Always computed from running statistics, as the engine does. `frozen`: these never change, and
    weight and bias of the norm are trained beside those of the layer. `trained`: they follow the
    training batches too, at the norm's own momentum. `folded`: the norm is folded into the layer
    first, and what is trained are the weights and biases that the engine stores.
    """

    FROZEN = "frozen"
    TRAINED = "trained"
    FOLDED = "folded"


class Ranges(Enum):
    """What becomes of the ranges of activations.

    `frozen`: those of calibration stand. `updated`: calibration is repeated on the weights at
    every check. `both`: the learning-rate probe tries both. `learned`: the scales of int8
    activations are trained with the weights.
    """

    FROZEN = "frozen"
    UPDATED = "updated"
    BOTH = "both"
    LEARNED = "learned"

    @property
    def tried(self) -> tuple[Ranges, ...]:
        """What the probe has to try."""
        return (Ranges.FROZEN, Ranges.UPDATED) if self is Ranges.BOTH else (self,)


@dataclass(frozen=True, slots=True)
class Check:
    """A look at a training, all of it emulated: the fake-quantized model was asked.

    Attributes:
        step: Steps done so far; 0 is the plan before training.
        learning_rate: Of the last step.
        training_loss: Mean since the check before; None at step 0.
        loss: On the evaluation data.
        metric: On the evaluation data, higher is better.
    """

    step: int
    learning_rate: float
    training_loss: float | None
    loss: float
    metric: float

    def is_better_than(self, other: Check) -> bool:
        """Whether it scores higher, or as high with a lower loss."""
        return (self.metric, -self.loss) > (other.metric, -other.loss)


@dataclass(frozen=True, slots=True)
class Trial:
    """One short run of the learning-rate probe.

    Attributes:
        learning_rate: At its start.
        ranges: Frozen or updated.
        steps: How long it ran.
        loss: On the evaluation data at its end (emulated); None: the training diverged.
        metric: On the evaluation data at its end (emulated); None: the training diverged.
    """

    learning_rate: float
    ranges: Ranges
    steps: int
    loss: float | None
    metric: float | None


def pick_trial(trials: tuple[Trial, ...]) -> Trial | None:
    """The trial that ends with the lowest loss, the first of equal ones; None: all diverged."""
    finished = [trial for trial in trials if trial.loss is not None]
    return min(finished, key=lambda trial: trial.loss or 0.0, default=None)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one model does on a data set.

    Attributes:
        score: The metric's mean, higher is better.
        drop: Float minus this model, paired, with its standard error.
    """

    score: Measurement
    drop: Measurement


@dataclass(frozen=True, slots=True)
class Recovery:
    """What fine-tuning did for a plan on one data set, all on the same samples.

    Attributes:
        data: Which data set (`evaluation`, which also chose the weights, or `heldout`).
        float_score: Of the float model as the user gave it.
        before: The plan on the engine, before training.
        after: The plan on the engine, after training.
        emulated: The fake-quantized model that was trained.
        trained_float: The float model with the trained weights: what training itself did.
        gain: `after` minus `before`, paired.
        gap: Engine minus fake-quantized, paired.
        gap_sqnr_db: Outputs of the fake-quantized model against those of the engine.
    """

    data: str
    float_score: Measurement
    before: Standing
    after: Standing
    emulated: Standing
    trained_float: Standing
    gain: Measurement
    gap: Measurement
    gap_sqnr_db: Measurement

    @property
    def recovered_share(self) -> float | None:
        """Gain over what the plan had lost before; None where it had lost nothing."""
        lost = self.before.drop.value
        return self.gain.value / lost if lost > 0.0 else None

    def to_json(self) -> dict[str, Any]:
        """Give the recovery as JSON values."""
        found = fields_json(self)
        found["float"] = found.pop("float_score")
        return {**found, "recovered_share": self.recovered_share}
