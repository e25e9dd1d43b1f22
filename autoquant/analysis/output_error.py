"""How far outputs are from the float model's, summed over the samples of one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autoquant.analysis.trials import Trial
from autoquant.core.sensitivity import Method, SensitivityRow

_FLOOR = 1e-15
_TINY = 1e-300


def to_decibels(noise: float) -> float:
    """Signal to noise in decibels from a noise-to-signal ratio; at most 150."""
    return -10.0 * math.log10(max(noise, _FLOOR))


def ratio_and_error(noise: Tensor, signal: Tensor) -> tuple[float, float]:
    """Ratio of two sums over samples, and its standard error.

    The error is that of a ratio estimator (Cochran, Sampling Techniques, eq. 6.13):
    sqrt(n / (n - 1) sum_i (noise_i - R signal_i)^2) / sum_i signal_i.

    Args:
        noise: Shape (samples,).
        signal: Shape (samples,).
    """
    total = float(signal.sum().clamp_min(_TINY))
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

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        self.values = torch.cat(list(outputs), 1).double()
        self.signal = (self.values**2).sum(1)
        self.log_p = torch.log_softmax(outputs[0].double(), 1)
        self.p = self.log_p.exp()


@dataclass(slots=True)
class OutputError:
    """Running sums of one row, over samples."""

    signal: list[Tensor] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    absolute: list[Tensor] = field(default_factory=list)
    cosine: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)
    elements: int = 0

    def add(self, expected: FloatOutputs, found: Sequence[Tensor]) -> None:
        """Take in the outputs of one chunk, each of shape (samples, elements)."""
        have = torch.cat(list(found), 1).double()
        error = have - expected.values
        self.elements = have.shape[1]
        self.signal.append(expected.signal)
        self.noise.append((error**2).sum(1))
        self.absolute.append(error.abs().sum(1))
        self.cosine.append(torch.cosine_similarity(expected.values, have, dim=1))
        log_q = torch.log_softmax(found[0].double(), 1)
        self.kl.append((expected.p * (expected.log_p - log_q)).sum(1))

    def finish(self, trial: Trial) -> SensitivityRow:
        """Give the row."""
        noise = torch.cat(self.noise)
        ratio, error = ratio_and_error(noise, torch.cat(self.signal))
        return SensitivityRow(
            knob=trial.knob.name,
            scheme=trial.scheme,
            part=trial.part,
            sqnr_db=to_decibels(ratio),
            cosine=float(torch.cat(self.cosine).mean()),
            mse=float(noise.mean()) / self.elements,
            l1=float(torch.cat(self.absolute).mean()) / self.elements,
            kl=float(torch.cat(self.kl).mean()),
            noise=ratio,
            noise_stderr=error,
            method=Method.EXACT,
        )
