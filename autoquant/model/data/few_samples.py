"""A few samples of a batch, on which a captured model still runs."""

from __future__ import annotations

import torch
from torch import Tensor

from autoquant.model.data.batches import Batch
from autoquant.model.graph.captured import Capture


def few_samples(captured: Capture, batch: Batch, count: int = 2) -> tuple[Tensor, ...]:
    """Inputs of the first samples; of all, where the model does not run on those alone.

    It takes one number of samples, or what they hold points beyond them: the edges of a graph.
    """
    if not any(captured.dynamic):
        return batch.inputs
    few = batch.head(count).inputs
    if captured.how != "export":  # what runs then is the model itself
        return few
    try:
        with torch.no_grad():
            captured.graph(*(item.clone() for item in few))
    except (IndexError, RuntimeError, ValueError):
        return batch.inputs
    return few
