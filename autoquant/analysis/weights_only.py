"""Weights-only sensitivity: a first look that needs no data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.passes.shape_prop import TensorMetadata

from autoquant.analysis.gradient import measure_gradient
from autoquant.analysis.trials import Question
from autoquant.core.sensitivity import Method, Part, SensitivityTable
from autoquant.model.batches import Batch

METHOD = "weights alone, to first order on normal noise as inputs; activations are not looked at"
_SAMPLES = 32
_TOKENS = 2


def measure_weights(question: Question, *, seed: int = 0) -> SensitivityTable:
    """Estimate the output error that rounding the weights of each knob causes, without data.

    The gradient method (`measure_gradient`) on standard normal noise in place of the data, with
    the errors of the weights alone. A heuristic for a first look: real inputs excite other
    channels, and what activations do is left out, so a row of both parts is that of the weights
    and a knob without weights has none. Integer inputs are drawn from 0 and 1, which every
    vocabulary has.

    Args:
        question: Model and knobs; its data are not looked at.
        seed: Of the noise and of the random signs.
    """
    draw = torch.Generator().manual_seed(seed)
    inputs = tuple(_noise(question.captured.graph, draw))
    noise = replace(question, batches=(Batch(inputs),), samples=_SAMPLES)
    table = measure_gradient(noise, parts=(Part.WEIGHT,), seed=seed)
    weighted = {row.knob for row in table.rows if row.part is Part.WEIGHT}
    rows = tuple(
        replace(row, method=Method.WEIGHTS_ONLY)
        for row in table.rows
        if row.knob in weighted and row.part is not Part.ACTIVATION
    )
    return SensitivityTable(rows=rows, method=METHOD, samples=0)


def _noise(graph: GraphModule, draw: torch.Generator) -> Iterator[Tensor]:
    """Draw each input of the model, of the shape of its example."""
    for node in graph.graph.nodes:
        meta = node.meta.get("tensor_meta")
        if node.op == "placeholder" and isinstance(meta, TensorMetadata):
            shape = (_SAMPLES, *meta.shape[1:])
            if meta.dtype.is_floating_point:
                yield torch.randn(shape, generator=draw).to(meta.dtype)
            else:
                yield torch.randint(0, _TOKENS, shape, generator=draw).to(meta.dtype)
