"""A user's own error function: one number for each sample, from what both models return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from autoquant.errors import MetricError

OwnError = Callable[[Any, Any], Any]
"""`error(expected, found)` of what the float and the quantized model return for a batch: one number
for each sample, higher is worse unless `error.higher_is_better` is set."""


def own_errors(error: OwnError, expected: Any, found: Any, samples: int) -> Tensor:
    """Call it on copies, which it may change.

    Returns:
        Shape (samples,), float64; NaN counts as the worst there is.

    Raises:
        MetricError: It raised, or gives something else than a number for each sample.
    """
    copies = (tree_map(_copy, item) for item in (expected, found))
    name = name_of(error)
    try:
        values = torch.as_tensor(error(*copies)).detach().double()
    except Exception as problem:
        raise MetricError(
            f"--error: {name} raised {type(problem).__name__}: {problem}",
            hint="it is called with what the float and the quantized model return for a batch",
        ) from problem
    if values.numel() != samples:
        raise MetricError(
            f"--error: {name} gave {values.numel()} numbers for {samples} samples",
            hint="return one for each sample: error.flatten(1).mean(1), say, not error.mean()",
        )
    worst = -torch.inf if getattr(error, "higher_is_better", False) else torch.inf
    return values.reshape(-1).nan_to_num(worst, torch.inf, -torch.inf)


def name_of(error: OwnError) -> str:
    """Its name, for messages and tables."""
    return str(getattr(error, "__name__", type(error).__name__))


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
