"""A user's own error function: from what both models return, or from one tensor of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autoquant.errors import MetricError
from autoquant.model.data.trees import copied

OwnError = Callable[[Any, Any], Any]
"""`error(expected, found)` of what the float and the quantized model return for a batch: one number
for each sample, higher is worse unless `error.higher_is_better` is set."""


def own_errors(error: OwnError, expected: Any, found: Any, samples: int) -> Tensor:
    """Call it on copies, which it may change.

    Returns:
        Shape (samples,), float64; NaN counts as the worst there is.
    """
    called_with = "what the float and the quantized model return for a batch"
    values = _call(error, expected, found, called_with)
    if values.numel() != samples:
        raise MetricError(
            f"--error: {name_of(error)} gave {values.numel()} numbers for {samples} samples",
            hint="return one for each sample: error.flatten(1).mean(1), say, not error.mean()",
        )
    worst = -torch.inf if getattr(error, "higher_is_better", False) else torch.inf
    return values.reshape(-1).nan_to_num(worst, torch.inf, -torch.inf)


class OwnMean:
    """Mean over samples of what a user's function says of one layer.

    Args:
        error: Takes the float tensor and the quantized one of a batch, both in float; gives one
            number for the batch, or one for each sample.
        layer: Its name, for messages.
    """

    def __init__(self, error: OwnError, layer: str) -> None:
        self._error, self._layer = error, layer
        self._sum, self._samples = 0.0, 0

    def add(self, expected: Tensor, found: Tensor, samples: int) -> None:
        """Take in one batch."""
        found = found.dequantize() if found.is_quantized else found.float()
        called_with = f"the float and the quantized tensor of {self._layer} for a batch"
        values = _call(self._error, expected, found, called_with)
        if values.numel() not in (1, samples):
            raise MetricError(
                f"--error: {name_of(self._error)} gave {values.numel()} numbers for {samples} "
                f"samples of {self._layer}",
                hint="return one for the batch, (expected - found).abs().mean(), or one for each "
                "sample",
            )
        self._sum += float(values.mean()) * samples
        self._samples += samples

    @property
    def value(self) -> float:
        """The mean so far."""
        return self._sum / self._samples


def _call(error: OwnError, expected: Any, found: Any, called_with: str) -> Tensor:
    """What the function gives for copies, in double precision."""
    try:
        return torch.as_tensor(error(copied(expected), copied(found))).detach().double()
    except Exception as problem:
        raise MetricError(
            f"--error: {name_of(error)} raised {type(problem).__name__}: {problem}",
            hint=f"it is called with {called_with}",
        ) from problem


def name_of(error: OwnError) -> str:
    """Its name, for messages and tables."""
    return str(getattr(error, "__name__", type(error).__name__))
