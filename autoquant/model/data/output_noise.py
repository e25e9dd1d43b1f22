"""Signal and noise of every output of a candidate, and the one figure that guides a search."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from autoquant.core.measurement import SQNR_CEILING_DB
from autoquant.model.data.outputs import OutputWeights, difference, rows_of

Floats = npt.NDArray[np.float64]
Decibels = tuple[float, float | None]
"""A figure and its standard error; None where there is but one sample."""

LEAST_RATIO = 10 ** (-SQNR_CEILING_DB / 10)
"""Noise over signal below which nothing is told apart."""


class OutputNoises:
    """Energies of every output and of its error, by sample, gathered batch by batch."""

    def __init__(self) -> None:
        self._signal: dict[str, list[Floats]] = {}
        self._noise: dict[str, list[Floats]] = {}

    def add(
        self, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], samples: int
    ) -> None:
        """Take in one batch."""
        for name, value in expected.items():
            error = difference(value, found.get(name))
            self._signal.setdefault(name, []).append(_energy(value, samples))
            self._noise.setdefault(name, []).append(_energy(error, samples))
            if len(self._signal[name][-1]) != len(self._noise[name][-1]):
                self._signal[name][-1] = self._signal[name][-1].sum(keepdims=True)
                self._noise[name][-1] = self._noise[name][-1].sum(keepdims=True)

    def ratio(self, weights: OutputWeights) -> tuple[float, float | None]:
        """Noise-to-signal ratio of what guides, and its standard error; 0 where all is equal."""
        pairs = self._pairs()
        if weights.weights:
            return _ratio([(weight, *pairs[name]) for name, weight in weights.weights.items()])
        return max((_ratio([(1.0, *pair)]) for pair in pairs.values()), key=lambda item: item[0])

    def _pairs(self) -> dict[str, tuple[Floats, Floats]]:
        return {
            name: (np.concatenate(self._signal[name]), np.concatenate(self._noise[name]))
            for name in self._signal
        }

    def decibels(self, weights: OutputWeights) -> dict[str, Decibels]:
        """`sqnr_db`; and of several outputs `sqnr_db.NAME` of each and `sqnr_db.all`."""
        pairs = self._pairs()
        by_name = {name: signal_to_noise_db(*pair) for name, pair in pairs.items()}
        guide = _with_error(*self.ratio(weights))
        if len(pairs) == 1:
            return {"sqnr_db": guide}
        signals, noises = zip(*pairs.values(), strict=True)
        return {
            "sqnr_db": guide,
            "sqnr_db.all": _together(signals, noises),
            **{f"sqnr_db.{name}": found for name, found in by_name.items()},
        }


def signal_to_noise_db(signal: Floats, noise: Floats) -> Decibels:
    """Signal-to-quantization-noise ratio and its standard error, in decibels.

    With R = sum(noise) / sum(signal), the variance of R is that of the residuals noise - R signal
    over n mean(signal)^2 (Cochran, Sampling Techniques, 3rd ed., eq. 2.45), and the standard
    error in decibels is 10 / ln(10) * se(R) / R; None where there is but one sample.

    Args:
        signal: Shape (n,): energy of each sample's float outputs.
        noise: Shape (n,): energy of each sample's error.

    >>> signal_to_noise_db(np.array([100.0, 100.0]), np.array([1.0, 1.0]))
    (20.0, 0.0)
    """
    return _with_error(*_ratio([(1.0, signal, noise)]))


def _ratio(outputs: list[tuple[float, Floats, Floats]]) -> tuple[float, float | None]:
    """The weighted mean of the noise-to-signal ratios of some outputs, and its standard error.

    Its variance is that of the summed residuals, each over its output's signal; where one output
    has a row a sample and another a row a batch, standard errors add up, which is an upper bound.
    Noise without a signal is infinite.
    """
    total = sum(weight for weight, _, _ in outputs)
    ratio, residuals = 0.0, []
    for weight, signal, noise in outputs:
        share, energy, lost = weight / total, float(signal.sum()), float(noise.sum())
        if lost > energy * LEAST_RATIO:
            if energy == 0.0:
                return math.inf, 0.0
            ratio += share * lost / energy
            residuals.append(share * (noise - lost / energy * signal) / energy)
    if not residuals:
        return 0.0, 0.0
    if len({len(item) for item in residuals}) == 1:
        residuals = [np.sum(residuals, axis=0)]
    if min(map(len, residuals)) < 2:
        return ratio, None
    squares = [len(item) / (len(item) - 1) * float((item**2).sum()) for item in residuals]
    return ratio, sum(map(math.sqrt, squares))


def to_decibels(noise: float) -> float:
    """Signal to noise in decibels from a noise-to-signal ratio; at most 150."""
    return -10.0 * math.log10(max(noise, LEAST_RATIO))


def _with_error(ratio: float, stderr: float | None) -> Decibels:
    if ratio <= LEAST_RATIO:
        return SQNR_CEILING_DB, 0.0
    if ratio == math.inf:
        return -SQNR_CEILING_DB, 0.0
    error = None if stderr is None else 10.0 / math.log(10.0) * stderr / ratio
    return to_decibels(ratio), error


def _together(signals: tuple[Floats, ...], noises: tuple[Floats, ...]) -> Decibels:
    """Of all outputs together, as if they were one vector."""
    if len({len(item) for item in signals}) == 1:
        return signal_to_noise_db(np.sum(signals, axis=0), np.sum(noises, axis=0))
    whole = [np.array([sum(float(item.sum()) for item in part)]) for part in (signals, noises)]
    return signal_to_noise_db(whole[0], whole[1])


def _energy(value: Tensor, samples: int) -> Floats:
    """Sum of squares of each sample, shape (samples,); or (1,) of an output without samples."""
    return np.asarray((rows_of(value, samples).double() ** 2).sum(1).numpy(), dtype=np.float64)
