"""Gradient sensitivity: every knob and scheme from one forward and one backward pass."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor

from autoquant.core.sensitivity import Method, Part, RowKey, SensitivityRow, SensitivityTable
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.heap import trim_heap
from autoquant.searching.ranking.marks import mark
from autoquant.searching.ranking.output_error import TINY, ratio_and_error, row_of_noise
from autoquant.searching.ranking.probe import Probe
from autoquant.searching.ranking.rounding_terms import RoundingTerms
from autoquant.searching.ranking.trials import Question, Trial

METHOD = "output error to first order, random signs at the outputs, one backward pass"
MEMORY_BYTES = 1 << 28
_PARTS = {
    Part.BOTH: (Part.ACTIVATION, Part.WEIGHT, Part.BOTH),
    Part.WEIGHT: (Part.WEIGHT,),
    Part.ACTIVATION: (Part.ACTIVATION,),
}


def measure_gradient(
    question: Question,
    *,
    parts: Collection[Part] = tuple(Part),
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[int], None] = lambda samples: None,
) -> SensitivityTable:
    """Estimate the output error that each knob and scheme causes alone, to first order.

    Takes one forward and one backward pass over the samples, whatever the number of sites and
    schemes; `Probe` gives the equations. Errors of weights and of activations, and those of the
    tensors of one knob, count as uncorrelated: their powers add up.

    What it cannot see: errors so large that the network answers them nonlinearly.

    Args:
        question: Model, knobs and data.
        parts: What counts as rounded; what is left out adds nothing to any row.
        seed: Of the random signs.
        memory_bytes: What the tensors of the network for one chunk of samples may take; autograd
            keeps about as much again. Of several chunks, rounding errors of weights are kept up to
            the size of the weights, and to this.
        progress: Called with the number of samples done.
    """
    marked = mark(question.captured, question.space)
    terms = RoundingTerms(marked, question.space, question.rounding, parts)
    chunks = question.chunks(memory_bytes)
    kept_bytes = min(question.captured.float_bytes, memory_bytes) if len(chunks) > 1 else 0
    probe = Probe(marked, terms, torch.Generator().manual_seed(seed), kept_bytes, question.outputs)
    signals: list[Tensor] = []
    for batch in chunks:
        signals.append(probe.measure(batch))
        trim_heap()
        progress(len(batch))
    signal = torch.cat(signals)
    powers = _powers_by_row(probe, signal)
    return SensitivityTable(
        rows=tuple(_row(trial, powers) for trial in question.trials()),
        method=METHOD,
        samples=len(signal),
    )


def _powers_by_row(probe: Probe, signal: Tensor) -> dict[RowKey, tuple[float, float]]:
    """Noise-to-signal ratio and standard error of the activations, weights and biases of a row."""
    activations: dict[RowKey, Tensor] = {}
    for rows, power in probe.activation_powers():
        for key in rows:
            activations[key] = activations[key] + power if key in activations else power
    channels: dict[RowKey, list[Tensor]] = defaultdict(list)
    for rows, power in probe.constant_powers():
        for key in rows:
            channels[key].append(power)
    return {
        **{key: ratio_and_error(power, signal) for key, power in activations.items()},
        **{
            key: _ratio_of_channels(torch.cat(found), float(signal.sum()))
            for key, found in channels.items()
        },
    }


def _ratio_of_channels(powers: Tensor, signal: float) -> tuple[float, float]:
    """Power of independent dot products over that of the signal, and its standard error.

    A dot product x with random signs is close to a centred normal, for which
    Var(x^2) = 2 sigma^4 = 2/3 E[x^4].
    """
    signal = max(signal, TINY)
    return float(powers.sum()) / signal, math.sqrt(2 / 3 * float((powers**2).sum())) / signal


def _row(trial: Trial, powers: dict[RowKey, tuple[float, float]]) -> SensitivityRow:
    found = [
        powers.get((trial.knob.name, trial.scheme, part), (0.0, 0.0)) for part in _PARTS[trial.part]
    ]
    error = math.hypot(*(error for _, error in found))
    return row_of_noise(trial, sum(power for power, _ in found), error, Method.GRADIENT)


_ON_NOISE = "weights alone, to first order on normal noise as inputs; activations are not looked at"
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
    return SensitivityTable(rows=rows, method=_ON_NOISE, samples=0)


def _noisy(batch: Batch, draw: torch.Generator) -> Batch:
    """The batch with noise in place of its floating inputs."""
    inputs = tuple(
        torch.randn(item.shape, generator=draw).to(item.dtype) if item.is_floating_point() else item
        for item in batch.inputs
    )
    return Batch(inputs, axes=batch.axes)
