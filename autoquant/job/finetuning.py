"""The section `finetune` of a job: how a plan is trained, on what, and for how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from autoquant.core.findings.finetuning import BatchNorm, Ranges
from autoquant.job.section import AnyEntry, Entry, Score, Section, entry_from_text

Rate = Annotated[float, Field(gt=0, strict=False)]


_PROBED = 8
"""By fewer steps a learning rate says little."""
_LEAST = 2


class TrainingSettings(Section):
    """How a plan is trained; `share` of `float_steps` limits all steps, the probe's included.

    `rate_factors`: by glob over the names of parameters, what their learning rate is multiplied by;
    later ones win, 0 leaves them as they are.
    """

    float_steps: Annotated[int, Field(ge=1)]
    share: Annotated[float, Field(gt=0, le=1, strict=False)] = 0.1
    steps: Annotated[int, Field(ge=1)] | None = None
    learning_rates: Annotated[tuple[Rate, ...], Field(strict=False, min_length=1)] = (
        1e-4,
        1e-3,
        1e-2,
    )
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1, strict=False)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, strict=False)] = 0.0
    gradient_norm: Rate | None = None
    batch_norm: Annotated[BatchNorm, Field(strict=False)] = BatchNorm.FROZEN
    ranges: Annotated[Ranges, Field(strict=False)] = Ranges.FROZEN
    checks: Annotated[int, Field(ge=1)] = 10
    rate_factors: dict[str, Annotated[float, Field(ge=0, strict=False)]] = Field(
        default_factory=dict
    )

    @property
    def budget(self) -> int:
        """All steps: those of the probe, and of the training after it."""
        return int(self.share * self.float_steps) if self.steps is None else self.steps

    @property
    def candidates(self) -> tuple[tuple[float, Ranges], ...]:
        """What the probe tries: each learning rate with each treatment of ranges."""
        return tuple((rate, ranges) for ranges in self.ranges.tried for rate in self.learning_rates)

    @property
    def probe_steps(self) -> int:
        """Steps of each run of the probe; none where nothing is to choose.

        A twentieth of all. Where that is less than eight, eight, as long as all runs together take
        no more than half; two in any case.
        """
        count = len(self.candidates)
        if count < 2:
            return 0
        within_half = min(_PROBED, self.budget // (2 * count))
        return max(self.budget // 20, within_half, min(_LEAST, (self.budget - 1) // count))

    @property
    def training_steps(self) -> int:
        """Steps after the probe."""
        return self.budget - self.probe_steps * len(self.candidates)

    @model_validator(mode="after")
    def _fits(self) -> TrainingSettings:
        limit = int(self.share * self.float_steps)
        if self.budget > limit:
            raise ValueError(
                f"steps: {self.budget} is above {limit}, the share {self.share:g} of "
                f"{self.float_steps} float_steps; lower steps, or raise share"
            )
        if len(self.candidates) > 1 and self.probe_steps < _LEAST:
            raise ValueError(
                f"learning_rates: {self.budget} steps in all are too few to try "
                f"{len(self.candidates)} by more than one step each; raise share or steps, or "
                "list fewer"
            )
        return self


class Finetuning(TrainingSettings):
    """The training of a job: also where its data and its loss come from."""

    data: AnyEntry
    loss: Annotated[Score, BeforeValidator(entry_from_text)]
    float_schedule: Annotated[Entry, BeforeValidator(entry_from_text)] | None = None
