"""What training lowers, and what a check looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoquant.errors import MetricError
from autoquant.model.data.batches import Batch
from autoquant.model.data.number_outputs import judged
from autoquant.model.data.scoring import Metric, is_loss, start_tally

Loss = Callable[[Any, Any], Tensor]
"""`loss(outputs, targets)`: one number, or one for each sample, that gradients flow through."""


def batch_loss(loss: Loss, outputs: Any, batch: Batch) -> Tensor:
    """Mean loss of one batch, a scalar; of whole numbers it gets the floats before them."""
    name = getattr(loss, "__name__", type(loss).__name__)
    try:
        found = loss(judged(outputs), batch.targets)
    except Exception as error:
        raise MetricError(
            f"loss {name!r} failed: {type(error).__name__}: {error}",
            hint="it is called as loss(outputs, targets) with one training batch",
        ) from error
    if not isinstance(found, Tensor) or found.numel() not in (1, len(batch)):
        shape = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise MetricError(
            f"loss {name!r} returned {shape} for a batch of {len(batch)}",
            hint="return one number for the batch, or one for each sample, as a tensor",
        )
    if torch.is_grad_enabled() and not found.requires_grad:
        raise MetricError(
            f"loss {name!r} returned a tensor without a gradient",
            hint="compute it from the outputs, without argmax, detach, item or no_grad",
        )
    return found.mean()


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """How a model in training is judged: a loss is lowered, a metric says what is kept."""

    loss: Loss
    metric: Metric
    batches: Sequence[Batch]

    def look(self, run: Callable[[tuple[Tensor, ...]], Any]) -> tuple[float, float]:
        """Mean loss and metric (negated where lower is better) on the evaluation data."""
        losses, samples = 0.0, 0
        tally = start_tally(self.metric)
        with torch.no_grad():
            for batch in self.batches:
                outputs = run(batch.inputs)
                losses += float(batch_loss(self.loss, outputs, batch)) * len(batch)
                tally.add(outputs, batch)
                samples += len(batch)
        score, _ = tally.scores().mean()
        return losses / samples, -score if is_loss(self.metric) else score
