"""Where a training stands: all that a process needs to go on with it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoquant.core.findings.finetuning import Check, Ranges, Trial
from autoquant.core.json_values import fields_json, value_of
from autoquant.errors import StorageError, first_line

FORMAT = 1

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """A training after some of its steps; written at every check.

    Attributes:
        trials: What the learning-rate probe found.
        learning_rate: That the training began with.
        ranges: Frozen or updated.
        step: Steps done.
        weights: Trained parameters after them.
        optimizer: State of the optimizer; empty before the first step.
        best: The best check.
        best_weights: Parameters at that check.
        checks: All checks so far, the start first.
        stopped: Why training ended early, None where it did not.
    """

    trials: tuple[Trial, ...]
    learning_rate: float
    ranges: Ranges
    step: int
    weights: Weights
    optimizer: Mapping[str, Any]
    best: Check
    best_weights: Weights
    checks: tuple[Check, ...] = field(default=())
    stopped: str | None = None


def dump_state(state: TrainingState, identity: str) -> bytes:
    """Write a state as bytes that `load_state` reads back; `identity` is that of its training."""
    document = {
        "format": FORMAT,
        "identity": identity,
        **fields_json(state, but=("weights", "optimizer", "best_weights")),
        "weights": dict(state.weights),
        "optimizer": dict(state.optimizer),
        "best_weights": dict(state.best_weights),
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()


def load_state(content: bytes, identity: str, name: str) -> TrainingState:
    """Read a state; nothing in the file is executed."""
    try:
        found = torch.load(io.BytesIO(content), weights_only=True)
        if found["identity"] != identity:
            raise StorageError(
                f"{name} belongs to another training: model, data, plan or settings differ",
                hint="give the same job, plan and --set as before; or choose another output",
            )
        return value_of(TrainingState, found)
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(
            f"{name} is damaged: {first_line(error)}",
            hint="remove it and start without --resume",
        ) from error
