"""How far outputs are from the float model's, summed over the samples of one row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoquant.core.sensitivity import Method, SensitivityRow
from autoquant.model.data.batches import Batch
from autoquant.model.data.output_noise import LEAST_RATIO, OutputNoises, to_decibels
from autoquant.model.data.outputs import OutputWeights, divergence, named_outputs, rows_of
from autoquant.searching.ranking.trials import Trial

TINY = 1e-300


def ratio_and_error(noise: Tensor, signal: Tensor) -> tuple[float, float]:
    """Ratio of two sums over samples, and its standard error.

    The error is that of a ratio estimator (Cochran, Sampling Techniques, eq. 6.13):
    sqrt(n / (n - 1) sum_i (noise_i - R signal_i)^2) / sum_i signal_i.

    Args:
        noise: Shape (samples,).
        signal: Shape (samples,).
    """
    total = float(signal.sum().clamp_min(TINY))
    ratio = float(noise.sum()) / total
    count = len(signal)
    spread = count / max(count - 1, 1) * float(((noise - ratio * signal) ** 2).sum())
    return ratio, math.sqrt(spread) / total


def row_of_noise(trial: Trial, noise: float, stderr: float, method: Method) -> SensitivityRow:
    """A row of a method that gives the noise alone."""
    return SensitivityRow(
        knob=trial.knob.name,
        scheme=trial.scheme,
        part=trial.part,
        sqnr_db=to_decibels(noise),
        cosine=None,
        mse=None,
        l1=None,
        kl=None,
        noise=noise,
        noise_stderr=stderr,
        method=method,
    )


class FloatOutputs:
    """The float model's outputs on one chunk, and what is needed of them again and again."""

    def __init__(self, outputs: Any, batch: Batch) -> None:
        self.named = named_outputs(outputs)
        self.values = _joined(self.named, len(batch))
        self.samples = len(batch)


@dataclass(slots=True)
class OutputError:
    """Running sums of one row, over samples."""

    weights: OutputWeights
    noises: OutputNoises = field(default_factory=OutputNoises)
    squared: float = 0.0
    absolute: float = 0.0
    elements: int = 0
    cosine: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)

    def add(self, expected: FloatOutputs, outputs: Any) -> None:
        """Take in the outputs of one chunk; what is lost (NaN, infinity) counts as zero."""
        found = {name: _finite(value) for name, value in named_outputs(outputs).items()}
        have = _joined(found, expected.samples)
        error = have - expected.values
        self.noises.add(expected.named, found, expected.samples)
        self.elements += error.numel()
        self.squared += float((error**2).sum())
        self.absolute += float(error.abs().sum())
        self.cosine.append(torch.cosine_similarity(expected.values, have, dim=1))
        judged = next(iter(self.weights.weights), next(iter(expected.named)))
        self.kl.append(divergence(expected.named[judged], found[judged], expected.samples))

    def noise(self) -> tuple[float, float]:
        """Noise-to-signal ratio of what guides, and its standard error."""
        ratio, error = self.noises.ratio(self.weights)
        return min(ratio, 1.0 / LEAST_RATIO), error or 0.0

    def finish(self, trial: Trial) -> SensitivityRow:
        """Give the row."""
        ratio, error = self.noise()
        return SensitivityRow(
            knob=trial.knob.name,
            scheme=trial.scheme,
            part=trial.part,
            sqnr_db=to_decibels(ratio),
            cosine=float(torch.cat(self.cosine).mean()),
            mse=self.squared / self.elements,
            l1=self.absolute / self.elements,
            kl=float(torch.cat(self.kl).mean()),
            noise=ratio,
            noise_stderr=error,
            method=Method.EXACT,
        )


def _joined(named: Mapping[str, Tensor], samples: int) -> Tensor:
    """All outputs of each sample in a row, float64; one row where an output has no samples."""
    rows = [rows_of(value, samples) for value in named.values()]
    if any(len(row) != samples for row in rows):
        rows = [row.reshape(1, -1) for row in rows]
    return torch.cat(rows, 1).double()


def _finite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
