"""Weights-only sensitivity: a first look that needs no data."""

from __future__ import annotations

from dataclasses import replace

import torch

from autoquant.core.sensitivity import Method, Part, SensitivityTable
from autoquant.model.data.batches import Batch, take_samples
from autoquant.searching.ranking.gradient import measure_gradient
from autoquant.searching.ranking.trials import Question

METHOD = "weights alone, to first order on normal noise as inputs; activations are not looked at"
_SAMPLES = 32


def measure_weights(question: Question) -> SensitivityTable:
    """Estimate the output error that rounding the weights of each knob causes, on noise.

    The gradient method (`measure_gradient`) on standard normal noise in place of floating inputs,
    with the errors of the weights alone. A heuristic for a first look: real inputs excite other
    channels, and what activations do is left out, so a row of both parts is that of the weights
    and a knob without weights has none. Tokens and masks are those of the data: noise in their
    place may mask everything.
    """
    draw = torch.Generator().manual_seed(0)
    batches = tuple(_noisy(batch, draw) for batch in take_samples(question.batches, _SAMPLES))
    noise = replace(question, batches=batches, samples=_SAMPLES)
    table = measure_gradient(noise, parts=(Part.WEIGHT,))
    weighted = {row.knob for row in table.rows if row.part is Part.WEIGHT}
    rows = tuple(
        replace(row, method=Method.WEIGHTS_ONLY)
        for row in table.rows
        if row.knob in weighted and row.part is not Part.ACTIVATION
    )
    return SensitivityTable(rows=rows, method=METHOD, samples=0)


def _noisy(batch: Batch, draw: torch.Generator) -> Batch:
    """The batch with noise in place of its floating inputs."""
    inputs = tuple(
        torch.randn(item.shape, generator=draw).to(item.dtype) if item.is_floating_point() else item
        for item in batch.inputs
    )
    return Batch(inputs, axes=batch.axes)
