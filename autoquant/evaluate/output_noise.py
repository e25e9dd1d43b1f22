"""Signal and noise of every output of a candidate, and the one figure that guides a search."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from autoquant.core.measurement import SQNR_CEILING_DB
from autoquant.model.outputs import OutputWeights, difference, rows_of

Floats = npt.NDArray[np.float64]
Decibels = tuple[float, float | None]


class OutputNoises:
    """Energies of every output and of its error, by sample, gathered batch by batch."""

    def __init__(self) -> None:
        self._signal: dict[str, list[Floats]] = {}
        self._noise: dict[str, list[Floats]] = {}

    def add(
        self, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], samples: int
    ) -> None:
        """Take in one batch.

        Args:
            expected: The float model's outputs by name.
            found: The candidate's.
            samples: Of the batch.
        """
        for name, value in expected.items():
            error = difference(value, found.get(name))
            self._signal.setdefault(name, []).append(_energy(value, samples))
            self._noise.setdefault(name, []).append(_energy(error, samples))
            if len(self._signal[name][-1]) != len(self._noise[name][-1]):
                self._signal[name][-1] = self._signal[name][-1].sum(keepdims=True)
                self._noise[name][-1] = self._noise[name][-1].sum(keepdims=True)

    def decibels(self, weights: OutputWeights) -> dict[str, Decibels]:
        """`sqnr_db`; and of several outputs `sqnr_db.NAME` of each and `sqnr_db.all`.

        Args:
            weights: Which outputs guide.
        """
        pairs = {
            name: (np.concatenate(self._signal[name]), np.concatenate(self._noise[name]))
            for name in self._signal
        }
        by_name = {name: signal_to_noise_db(*pair) for name, pair in pairs.items()}
        if weights.weights:
            guide = _weighted([(weight, *pairs[name]) for name, weight in weights.weights.items()])
        else:
            guide = min(by_name.values(), key=lambda item: item[0])
        if len(pairs) == 1:
            return {"sqnr_db": guide}
        signals, noises = zip(*pairs.values(), strict=True)
        return {
            "sqnr_db": guide,
            "sqnr_db.all": _weighted_energies(signals, noises),
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
    return _weighted([(1.0, signal, noise)])


def _weighted(outputs: list[tuple[float, Floats, Floats]]) -> Decibels:
    """The weighted mean of the noise-to-signal ratios of some outputs, in decibels.

    Its variance is that of the summed residuals, each over its output's signal; where one output
    has a row a sample and another a row a batch, standard errors add up, which is an upper bound.
    """
    total = sum(weight for weight, _, _ in outputs)
    ratio, residuals = 0.0, []
    for weight, signal, noise in outputs:
        share, energy = weight / total, float(signal.sum())
        if float(noise.sum()) <= energy * 10 ** (-SQNR_CEILING_DB / 10):
            continue
        if energy == 0.0:
            return -SQNR_CEILING_DB, 0.0
        ratio += share * float(noise.sum()) / energy
        residuals.append(share * (noise - float(noise.sum()) / energy * signal) / energy)
    if ratio <= 10 ** (-SQNR_CEILING_DB / 10):
        return SQNR_CEILING_DB, 0.0
    if len({len(item) for item in residuals}) == 1:
        residuals = [np.sum(residuals, axis=0)]
    if min(map(len, residuals)) < 2:
        return -10.0 * math.log10(ratio), None
    spread = sum(
        math.sqrt(len(item) / (len(item) - 1) * float((item**2).sum())) for item in residuals
    )
    return -10.0 * math.log10(ratio), 10.0 / math.log(10.0) * spread / ratio


def _weighted_energies(signals: tuple[Floats, ...], noises: tuple[Floats, ...]) -> Decibels:
    """Of all outputs together, as if they were one vector."""
    if len({len(item) for item in signals}) == 1:
        return signal_to_noise_db(np.sum(signals, axis=0), np.sum(noises, axis=0))
    whole = [np.array([sum(float(item.sum()) for item in part)]) for part in (signals, noises)]
    return signal_to_noise_db(whole[0], whole[1])


def _energy(value: Tensor, samples: int) -> Floats:
    """Sum of squares of each sample, shape (samples,); or (1,) of an output without samples."""
    return np.asarray((rows_of(value, samples).double() ** 2).sum(1).numpy(), dtype=np.float64)
