"""The learning-rate probe: short runs from the same start, on the same batches."""

from __future__ import annotations

import math

from autoquant.core.findings.finetuning import Check, Ranges, Trial, pick_trial
from autoquant.finetuning.training.state import TrainingState, Weights
from autoquant.finetuning.training.trainer import Advance, Trainer


def probe(
    trainer: Trainer,
    start: Check,
    candidates: tuple[tuple[float, Ranges], ...],
    steps: int,
    advance: Advance,
) -> tuple[Trial, ...]:
    """Train briefly with each learning rate, and look at the loss on the evaluation data.

    Each run takes the whole schedule, compressed to its few steps: a rate that is too high for the
    training is not excused by its start, nor one that pays only after its fall.
    """
    before = trainer.weights()
    found = []
    for rate, ranges in candidates:
        found.append(_try(trainer, start, before, rate, ranges, steps, advance))
    trainer.take(before, Ranges.FROZEN)
    return tuple(found)


def begin(
    trainer: Trainer,
    start: Check,
    trials: tuple[Trial, ...],
    fallback: tuple[float, Ranges],
) -> TrainingState | None:
    """The state before the first step, with the best trial's choices; None: all diverged."""
    picked = pick_trial(trials)
    if trials and picked is None:
        return None
    rate, ranges = (picked.learning_rate, picked.ranges) if picked else fallback
    weights = trainer.weights()
    return _state(start, weights, rate, ranges, trials)


def _try(
    trainer: Trainer,
    start: Check,
    before: Weights,
    rate: float,
    ranges: Ranges,
    steps: int,
    advance: Advance,
) -> Trial:
    state = _state(start, before, rate, ranges, ())
    short = trainer.with_one_check()
    last = short.run(state, steps, advance, lambda state: None)
    check = last.checks[-1]
    if last.stopped or not math.isfinite(check.loss):
        return Trial(rate, ranges, steps, None, None)
    return Trial(rate, ranges, steps, check.loss, check.metric)


def _state(
    start: Check, weights: Weights, rate: float, ranges: Ranges, trials: tuple[Trial, ...]
) -> TrainingState:
    return TrainingState(
        trials=trials,
        learning_rate=rate,
        ranges=ranges,
        step=0,
        weights=weights,
        optimizer={},
        best=start,
        best_weights=weights,
        checks=(start,),
    )
