"""Metrics: scores by sample, by batch or over a data set, and what a model scored so far."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoquant.core.quantities import LOWER
from autoquant.errors import MetricError
from autoquant.model.data.batches import Batch
from autoquant.model.data.number_outputs import returned
from autoquant.model.data.trees import copied, is_same

Floats = npt.NDArray[np.float64]
Metric = Callable[[Any, Any], Any]
"""`metric(outputs, targets)`; or an object with `update(outputs, targets)` and `compute()`."""

_CERTAIN = 5.0
"""Standard deviations that a score must lie below those by chance to be taken for a loss."""

JACKKNIFE_GROUPS = 10
"""A score over a data set is computed as often without a part of the batches."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of one function.

    Attributes:
        values: One a sample, or one a batch.
        weights: Samples behind each.
    """

    values: Floats
    weights: Floats

    def mean(self) -> tuple[float, float | None]:
        """Weighted mean and its standard error (None for a single value)."""
        total = float(self.weights.sum())
        mean = float((self.values * self.weights).sum()) / total
        count = len(self.values)
        if count < 2:
            return mean, None
        squares = float(((self.weights * (self.values - mean)) ** 2).sum())
        return mean, math.sqrt(count / (count - 1) * squares) / total

    def less(self, other: Scores) -> Scores:
        """The paired differences from other scores of the same samples."""
        return Scores(self.values - other.values, self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetScore:
    """One score over all batches, and without each group of them.

    Attributes:
        value: Over all.
        without: Without each group that was seen; empty where there was but one.
    """

    value: float
    without: Floats

    def mean(self) -> tuple[float, float | None]:
        """The score and its standard error by the delete-a-group jackknife.

        With G groups, sqrt((G - 1) / G sum_g (s_g - mean s)^2) over the scores s_g without group g
        (Shao and Tu, The Jackknife and Bootstrap, eq. 1.5 with groups, section 2.3).
        """
        count = len(self.without)
        if count < 2:
            return self.value, None
        spread = float(((self.without - self.without.mean()) ** 2).sum())
        return self.value, math.sqrt((count - 1) / count * spread)

    def less(self, other: DatasetScore) -> DatasetScore:
        """The difference from the score of another model on the same batches, paired by group."""
        return DatasetScore(self.value - other.value, self.without - other.without)


class Tally(Protocol):
    """What one model scored by one metric so far."""

    def add(self, outputs: Any, batch: Batch) -> None:
        """Score one batch."""

    def scores(self) -> Any:
        """What was scored so far: `Scores` or a `DatasetScore`."""


def doubt_direction(metric: Metric, outputs: Any, batch: Batch) -> str | None:
    """Say so where a metric looks as if lower were better, and nobody said which is.

    A score falls where each output is held against the target of another sample; a loss rises. It
    takes several samples with targets in a tensor to tell.
    """
    targets, count = batch.targets, len(batch)
    said = getattr(metric, "higher_is_better", None) is not None
    if said or not isinstance(targets, Tensor) or targets.shape[:1] != (count,) or count < 8:
        return None

    def score(moved: int) -> float:
        tally = start_tally(metric)
        tally.add(outputs, Batch(batch.inputs, targets.roll(moved, 0), batch.axes))
        return float(tally.scores().mean()[0])

    try:
        own, others = score(0), np.asarray([score(moved) for moved in range(1, 8)])
    except MetricError:  # a metric may refuse targets that belong to other samples
        return None
    if others.mean() - own <= max(_CERTAIN * others.std(), 1e-6 * abs(own)):
        return None
    name = metric_name(metric)
    return (
        f"warning: {name} is taken as higher is better, but gives outputs {own:.3g} beside their "
        f"own targets and {others.mean():.3g} beside those of others; where lower is better, "
        f"say {name}.higher_is_better = False"
    )


def start_tally(metric: Metric) -> Tally:
    """Begin to score a model."""
    return _DatasetTally(metric) if is_over_data(metric) else _BatchTally(metric)


def is_over_data(metric: object) -> bool:
    """Whether a metric gathers over the data set, as those of torchmetrics do."""
    return callable(getattr(metric, "update", None)) and callable(getattr(metric, "compute", None))


def metric_name(metric: object) -> str:
    """What to call a metric: a function's own name, or that of its class."""
    if isinstance(metric, partial):
        return metric_name(metric.func)
    name = str(getattr(metric, "__name__", type(metric).__name__))
    return "metric" if name == "<lambda>" else name


def is_loss(metric: object) -> bool:
    """Whether lower is better: what `higher_is_better` says, as torchmetrics has it."""
    return getattr(metric, "higher_is_better", None) is False


def is_against_float(metric: object) -> bool:
    """Whether the targets of a metric are the float model's outputs."""
    return getattr(metric, "against_float", False) is True


def metric_title(metric: object) -> str:
    """A metric's name for people, with its `unit` where it has one, and with its direction.

    >>> metric_title(max)
    'max'
    """
    words = [str(getattr(metric, "unit", "") or ""), LOWER if is_loss(metric) else ""]
    said = ", ".join(filter(None, words))
    return f"{metric_name(metric)} ({said})" if said else metric_name(metric)


def find_metric(metric: object, what: str = "metric") -> Metric:
    """Give a metric from what a user gave: itself, the name of a shipped one, or a class."""
    if isinstance(metric, str):
        shipped = importlib.import_module("autoquant.metrics")
        known = [name for name in shipped.__all__ if name != "Entry"]
        if metric not in known:
            raise MetricError(
                f"{what} {metric!r} is unknown",
                hint=f"give a function, or one of {', '.join(known)}",
            )
        return getattr(shipped, metric)  # type: ignore[no-any-return]
    if isinstance(metric, type) and is_over_data(metric):
        return find_metric(metric(), what)
    if not callable(metric) and not is_over_data(metric):
        raise MetricError(
            f"{what} is a {type(metric).__name__}",
            hint="give a function of (outputs, targets), or an object with update and compute",
        )
    return metric  # type: ignore[return-value]


def check_metric(metric: Metric, outputs: Any, batch: Batch) -> None:
    """Score one batch; what writes into its outputs or targets is refused."""
    tally = start_tally(metric)
    tally.add(outputs, batch)
    tally.scores()
    outputs = returned(outputs)
    given = copied(outputs), copied(batch.targets)
    function: Any = _fresh(metric).update if is_over_data(metric) else metric
    function(*given)
    kept = (outputs, batch.targets)
    for what, before, after in zip(("outputs", "targets"), kept, given, strict=True):
        if not is_same(before, after):
            raise MetricError(
                f"metric {metric_name(metric)!r} writes into the {what} that it is given",
                hint="use operations that make a new tensor (x.clamp, not x.clamp_), or clone it",
            )


def score_batch(metric: Metric, outputs: Any, batch: Batch) -> Tensor:
    """Score one batch by a metric that gathers nothing.

    Returns:
        Shape (batch,), one score a sample; or shape (1,) where the metric gives one number.
    """
    name = metric_name(metric)
    found = _called(name, metric, outputs, batch.targets)
    try:
        scores = torch.as_tensor(found, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise MetricError(
            f"metric {name!r} returned a {type(found).__name__}, which is no number",
            hint="return one score for each sample, or one number for the batch",
        ) from error
    if scores.ndim > 1 or scores.numel() not in (1, len(batch)):
        raise MetricError(
            f"metric {name!r} returned shape {tuple(scores.shape)} for a batch of {len(batch)}",
            hint="return one score for each sample, or one number for the batch"
            + _other_axis(batch, scores.numel()),
        )
    if not torch.isfinite(scores).all():
        raise MetricError(
            f"metric {name!r} returned NaN or infinity",
            hint="return finite scores; what one batch cannot give, such as an AUC where all "
            "labels are equal, an object with update and compute gives of the data set",
        )
    return scores.reshape(-1)


def _other_axis(batch: Batch, count: int) -> str:
    """Where an input has so many of another axis than the one that was taken for its samples."""
    for place, tensor in enumerate(batch.inputs):
        own = None if batch.axes is None else batch.axes[place]
        for axis, size in enumerate(tensor.shape):
            if size == count and axis != own:
                return (
                    f"; where samples are counted by axis {axis} of input {place}, name it: "
                    f"dynamic={{name: [{axis}]}}"
                )
    return ""


class _BatchTally:
    """Scores of a function, batch by batch."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._scores: list[Tensor] = []
        self._sizes: list[int] = []

    def add(self, outputs: Any, batch: Batch) -> None:
        self._scores.append(score_batch(self._metric, outputs, batch))
        self._sizes.append(len(batch))

    def scores(self) -> Scores:
        """A score of a whole batch weighs as its samples."""
        values = np.asarray(torch.cat(self._scores).numpy(), dtype=np.float64)
        pairs = zip(self._scores, self._sizes, strict=True)
        weights = [np.full(len(score), size / len(score)) for score, size in pairs]
        return Scores(values, np.concatenate(weights))


class _DatasetTally:
    """A metric over all batches, and copies of it that each leave out a group of them.

    Nothing of the outputs is kept. Batch n belongs to group n modulo the number of groups, so that
    two models that are scored on the same batches in the same order are paired.
    """

    def __init__(self, metric: Any) -> None:
        self._name = metric_name(metric)
        self._all, *self._without = (_fresh(metric) for _ in range(JACKKNIFE_GROUPS + 1))
        self._seen = 0

    def add(self, outputs: Any, batch: Batch) -> None:
        left_out = self._seen % JACKKNIFE_GROUPS
        for group, metric in enumerate([*self._without, self._all]):
            if group != left_out:
                _called(self._name, metric.update, outputs, batch.targets)
        self._seen += 1

    def scores(self) -> DatasetScore:
        groups = min(self._seen, JACKKNIFE_GROUPS)
        without = [self._computed(metric) for metric in self._without[:groups] if groups > 1]
        return DatasetScore(self._computed(self._all), np.asarray(without, dtype=np.float64))

    def _computed(self, metric: Any) -> float:
        try:
            found = copy.deepcopy(metric).compute()
        except Exception as error:
            raise MetricError(
                f"metric {self._name!r} failed in compute: {type(error).__name__}: {error}",
                hint="it is called after update(outputs, targets) of every batch, and of all but "
                "some of them for its standard error",
            ) from error
        return _number(found, self._name)


def _fresh(metric: Any) -> Any:
    """A copy of a metric that has gathered nothing."""
    copied = copy.deepcopy(metric)
    if callable(getattr(copied, "reset", None)):
        copied.reset()
    return copied


def _number(found: Any, name: str) -> float:
    if isinstance(found, dict):
        raise MetricError(
            f"metric {name!r} computes {len(found)} numbers: {', '.join(map(str, found))}",
            hint="name one: aq.metrics.Entry(metric, 'map')",
        )
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MetricError(
            f"metric {name!r} computed a {type(found).__name__}, which is no number",
            hint="compute one number",
        ) from error
    if not math.isfinite(value):
        raise MetricError(f"metric {name!r} computed NaN or infinity", hint="compute finite scores")
    return value


def _called(name: str, function: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> Any:
    try:
        return function(copied(returned(outputs)), copied(targets))
    except Exception as error:
        raise MetricError(
            f"metric {name!r} failed: {type(error).__name__}: {error}",
            hint="it is called as metric(outputs, targets) with one batch of the model's outputs",
        ) from error
