"""A few samples of a batch, on which a captured model still runs."""

from __future__ import annotations

import torch
from torch import Tensor

from autoquant.model.data.batches import Batch
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.float_model import buffers_kept
from autoquant.model.graph.module_calls import watch_calls
from autoquant.model.graph.module_capture import whole_model


def few_samples(captured: Capture, batch: Batch, count: int = 2) -> tuple[Tensor, ...]:
    """Inputs of the first samples; of all, where the model does not run on those alone.

    It takes one number of samples, or what they hold points beyond them: the edges of a graph; or,
    captured module by module, it calls all its sites for other samples alone, as experts are.
    """
    if not any(captured.dynamic):
        return batch.inputs
    few = batch.head(count).inputs
    copies = tuple(item.clone() for item in few)
    try:
        with torch.no_grad():
            if captured.how != "export":  # what runs then is the model itself
                return few if _calls_all_sites(captured, copies) else batch.inputs
            captured.graph(*copies)
    except (IndexError, RuntimeError, ValueError):
        return batch.inputs
    return few


def _calls_all_sites(captured: Capture, inputs: tuple[Tensor, ...]) -> bool:
    model, called = whole_model(captured), set[str]()
    paths = [site.name for site in captured.sites]
    with (
        buffers_kept(model),
        watch_calls(model, paths, lambda path, _: called.add(path), lambda *_: None),
    ):
        captured.calling.call(model, inputs)
    return called == set(paths)
