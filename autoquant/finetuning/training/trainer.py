"""The training itself: steps, checks, and the best weights kept."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from autoquant.core.findings.finetuning import Check, Ranges
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import JobError
from autoquant.finetuning.training.data import TrainingData
from autoquant.finetuning.training.objective import Objective, batch_loss
from autoquant.finetuning.training.schedule import Schedule
from autoquant.finetuning.training.state import TrainingState, Weights
from autoquant.finetuning.training.twin import SCALES, Twin
from autoquant.job import TrainingSettings
from autoquant.model.data.batches import Batch

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Trainer:
    """Trains a twin, in place; `calibration` and `statistics` are for ranges that are updated."""

    twin: Twin
    data: TrainingData
    objective: Objective
    calibration: Sequence[tuple[Tensor, ...]]
    statistics: CalibrationStatistics
    settings: TrainingSettings
    schedule: Schedule

    def start(self) -> Check:
        """Look at the plan before any training."""
        self.twin.take_ranges(self.statistics)
        loss, metric = self.objective.look(self.twin)
        return Check(0, 0.0, None, loss, metric)

    def run(
        self,
        state: TrainingState,
        steps: int,
        advance: Advance,
        keep: Callable[[TrainingState], None],
    ) -> TrainingState:
        """Train from a state to the last step; `keep` is given the state after each check.

        A loss that is no longer finite ends the training early.
        """
        self.take(state.weights, state.ranges)
        if state.stopped is not None:
            return state
        optimizer = self._optimizer(state)
        batches = self.data.batches(skip=state.step)
        for end in self._check_points(state.step, steps):
            mean = self._steps(state, optimizer, batches, end, steps, advance)
            if not math.isfinite(mean):
                state = replace(state, stopped=f"it diverged before step {end}")
                keep(state)
                return state
            state = self._check(state, optimizer, end, steps, mean)
            keep(state)
        return state

    def with_one_check(self) -> Trainer:
        """The same trainer, looking only at the end."""
        return replace(self, settings=self.settings.model_copy(update={"checks": 1}))

    def take(self, weights: Weights, ranges: Ranges) -> None:
        """Load weights into the twin, and the ranges that belong to them."""
        kept = self.twin.kept()
        with torch.no_grad():
            for name, value in weights.items():
                kept[name].copy_(value)
        if ranges is Ranges.UPDATED:
            self.twin.calibrate(self.calibration)
        else:
            self.twin.take_ranges(self.statistics)

    def weights(self) -> Weights:
        """A copy of the trained parameters, and of statistics that follow, as they are."""
        return {name: item.detach().clone() for name, item in self.twin.kept().items()}

    def _check_points(self, done: int, steps: int) -> list[int]:
        """Steps after which to look, evenly spread, the last one among them."""
        count = min(self.settings.checks, steps)
        points = [round(steps * (index + 1) / count) for index in range(count)]
        return [point for point in points if point > done]

    def _steps(
        self,
        state: TrainingState,
        optimizer: Optimizer,
        batches: Iterator[Batch],
        end: int,
        steps: int,
        advance: Advance,
    ) -> float:
        """Train up to a check; gives the mean loss, infinite once it diverges."""
        total = 0.0
        for step in range(state.step, end):
            _set_rate(optimizer, state.learning_rate * self.schedule(step / steps))
            loss = self._step(optimizer, next(batches))
            advance(1)
            if not math.isfinite(loss):
                return math.inf
            total += loss
        return total / (end - state.step)

    def _step(self, optimizer: Optimizer, batch: Batch) -> float:
        parameters = list(self.twin.trainable().values())
        self.twin.weights.follow(batch.inputs)
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():  # data that yield within no_grad would leave it on
            loss = batch_loss(self.objective.loss, self.twin(batch.inputs), batch)
        torch.autograd.backward(loss)
        if self.settings.gradient_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.gradient_norm)
        optimizer.step()
        is_finite = all(bool(torch.isfinite(item).all()) for item in parameters)
        return float(loss.detach()) if is_finite else math.inf

    def _check(
        self, state: TrainingState, optimizer: Optimizer, end: int, steps: int, mean: float
    ) -> TrainingState:
        if state.ranges is Ranges.UPDATED:
            self.twin.calibrate(self.calibration)
        loss, metric = self.objective.look(self.twin)
        rate = state.learning_rate * self.schedule((end - 1) / steps)
        check, weights = Check(end, rate, mean, loss, metric), self.weights()
        better = math.isfinite(loss) and check.is_better_than(state.best)
        return replace(
            state,
            step=end,
            weights=weights,
            optimizer=optimizer.state_dict(),
            best=check if better else state.best,
            best_weights=weights if better else state.best_weights,
            checks=(*state.checks, check),
        )

    def _optimizer(self, state: TrainingState) -> Optimizer:
        optimizer = OPTIMIZERS[self.settings.optimizer](
            rate_groups(self.twin.trainable(), self.settings.rate_factors), self.settings
        )
        if state.optimizer:
            optimizer.load_state_dict(dict(state.optimizer))
        return optimizer


_FACTOR = "rate_factor"
"""Of a group of parameters; a checkpoint of before factors has none."""


def check_factors(patterns: Iterable[str], names: Sequence[str]) -> None:
    """Refuse patterns of `finetune.rate_factors` that match no parameter."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern.replace("*", ""), names, 3, cutoff=0.1)
            raise JobError(
                f"finetune.rate_factors: {pattern!r} matches no parameter that is trained",
                hint=f"names are like {', '.join(close or names[:3])}",
            )


def rate_groups(
    parameters: Mapping[str, nn.Parameter], factors: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameters by what their learning rate is multiplied by; the last pattern that matches wins.

    Raises:
        JobError: A pattern matches no parameter that is trained.
    """
    check_factors(factors, list(parameters))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        matching = [factor for pattern, factor in factors.items() if fnmatchcase(name, pattern)]
        key = (matching[-1] if matching else 1.0, name.startswith(SCALES))
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": group, _FACTOR: factor, **({"weight_decay": 0.0} if is_scale else {})}
        for (factor, is_scale), group in groups.items()
    ]


def _sgd(parameters: list[dict[str, Any]], settings: TrainingSettings) -> Optimizer:
    return SGD(parameters, lr=0.0, momentum=settings.momentum, weight_decay=settings.weight_decay)


def _adam(parameters: list[dict[str, Any]], settings: TrainingSettings) -> Optimizer:
    return Adam(
        parameters, lr=0.0, betas=(settings.momentum, 0.999), weight_decay=settings.weight_decay
    )


def _adamw(parameters: list[dict[str, Any]], settings: TrainingSettings) -> Optimizer:
    return AdamW(
        parameters, lr=0.0, betas=(settings.momentum, 0.999), weight_decay=settings.weight_decay
    )


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], TrainingSettings], Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
}


def _set_rate(optimizer: Optimizer, rate: float) -> None:
    group: dict[str, Any]
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)
