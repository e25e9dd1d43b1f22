"""How far each sample's outputs are from the float model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autoquant.core.findings.badcases import OutputMetric
from autoquant.core.measurement import SQNR_CEILING_DB
from autoquant.model.data.outputs import divergence

SampleErrors = Mapping[OutputMetric, Tensor]
"""By metric, one value for each sample, shape (samples,), float64."""

_TINY = 1e-300
_WORST = {
    OutputMetric.COSINE: -1.0,
    OutputMetric.MSE: torch.inf,
    OutputMetric.L1: torch.inf,
    OutputMetric.KL: torch.inf,
    OutputMetric.SQNR: -SQNR_CEILING_DB,
}


def sample_errors(expected: Tensor, found: Tensor, samples: int) -> SampleErrors:
    """Compare one output, sample by sample, in the metrics of sensitivity tables.

    Args:
        expected: Of the float model, as it gives it.
        found: Of the quantized model, as many elements.
        samples: How many rows to tell apart: those of the batch, or 1 to judge it as a whole.

    Returns:
        By metric; a sample that holds NaN or infinity in `found` has the worst value there is.
    """
    want, have = (item.reshape(samples, -1).double() for item in (expected, found))
    error = have - want
    values = {
        OutputMetric.COSINE: torch.cosine_similarity(want, have, dim=1),
        OutputMetric.MSE: error.square().mean(1),
        OutputMetric.L1: error.abs().mean(1),
        OutputMetric.KL: divergence(expected, found.reshape(expected.shape), samples),
        OutputMetric.SQNR: sqnr_db(want.square().sum(1), error.square().sum(1)),
    }
    broken = ~torch.isfinite(have).all(1)
    return {name: value.masked_fill(broken, _WORST[name]) for name, value in values.items()}


def energies(
    expected: Sequence[Tensor], found: Sequence[Tensor], units: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Energy of the signal and of the noise of each sample: of its worst output, where several.

    Outputs count in units of their mean energy, so that samples whose worst output is another one
    can be added up.

    Args:
        expected: Of the float model, each of shape (samples, elements).
        found: Of the quantized model, in the same shapes.
        units: Mean energy of each output in the data, shape (outputs,); None: in these samples.

    Returns:
        Two tensors of shape (samples,), float64; the noise of what is not finite is infinite.
    """
    signal = torch.stack([item.double().square().sum(1) for item in expected])
    errors = [have.double() - want.double() for have, want in zip(found, expected, strict=True)]
    noise = torch.stack([item.square().sum(1) for item in errors]).nan_to_num(nan=torch.inf)
    if len(expected) == 1:
        return signal[0], noise[0]
    units = (signal.mean(1) if units is None else units)[:, None].clamp_min(_TINY)
    worst = noise_ratio(signal, noise).argmax(0, keepdim=True)
    return (signal / units).gather(0, worst)[0], (noise / units).gather(0, worst)[0]


def noise_ratio(signal: Tensor, noise: Tensor) -> Tensor:
    """Noise over signal, element by element; finite where there is no signal but for huge noise."""
    return noise / signal.clamp_min(_TINY)


def sqnr_db(signal: Tensor, noise: Tensor) -> Tensor:
    """10 log10(signal / noise), between -150 and 150 dB, as `measuring/quality.py` bounds it.

    Args:
        signal: Energies, shape (samples,).
        noise: Energies, shape (samples,); no noise is 150 dB even where there is no signal.
    """
    found = 10.0 * (torch.log10(signal) - torch.log10(noise))
    silent = torch.where(noise == 0, SQNR_CEILING_DB, -SQNR_CEILING_DB)
    found = torch.where(found.isnan(), silent, found)
    return found.clamp(-SQNR_CEILING_DB, SQNR_CEILING_DB)
