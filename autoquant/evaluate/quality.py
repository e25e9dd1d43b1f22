"""Quality: a candidate's outputs against float on the same samples, paired."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoquant.core.evaluation import Bar
from autoquant.core.measurement import SQNR_CEILING_DB, Kind, Measurement
from autoquant.errors import ModelError
from autoquant.evaluate.racing import look_after, why_stop
from autoquant.model.batches import Batch
from autoquant.model.subject import Metric, output_rows, score_batch

Floats = npt.NDArray[np.float64]

_ORDER_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of one function.

    Attributes:
        values: One a sample, or one a batch.
        weights: Samples behind each.
    """

    values: Floats
    weights: Floats


Functions = Mapping[str, Metric]
"""What scores outputs, by the name of its measurement: `accuracy`, and perhaps `loss`."""


@dataclass(frozen=True, slots=True, eq=False)
class FloatReference:
    """What the float model gives on a data set, computed once.

    Attributes:
        batches: The data.
        rows: By batch, every floating output, shape (batch, elements).
        scores: By function (the metric, the loss) and batch: one a sample (or one a batch).
        signal: By batch, the energy of each sample's outputs, shape (batch,).
        log_probabilities: By batch, log softmax of the first output in float64.
        order: In which batches are taken: spread over the data set.
    """

    batches: tuple[Batch, ...]
    rows: tuple[tuple[Tensor, ...], ...]
    scores: Mapping[str, tuple[Tensor, ...]]
    signal: tuple[Floats, ...]
    log_probabilities: tuple[Tensor, ...]
    order: tuple[int, ...]

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return sum(len(batch) for batch in self.batches)


class NotFiniteError(ValueError):
    """A candidate's outputs hold NaN or infinity."""


def run_reference(
    run: Callable[[tuple[Tensor, ...]], Any], batches: tuple[Batch, ...], functions: Functions
) -> FloatReference:
    """Run the float model over a data set.

    Args:
        run: The float model.
        batches: The data, with targets.
        functions: What scores its outputs.

    Raises:
        ModelError: Its outputs hold NaN or infinity; names the batch.
        MetricError: A function fails on them.
    """
    rows = []
    scores: dict[str, list[Tensor]] = {name: [] for name in functions}
    for batch in batches:
        outputs = run(batch.inputs)
        rows.append(tuple(output_rows(outputs, batch)))
        if not all(bool(torch.isfinite(row).all()) for row in rows[-1]):
            raise ModelError(
                f"the float model's outputs hold NaN or infinity on batch {len(rows) - 1}",
                hint="check that batch, and the model on it",
            )
        for name, function in functions.items():
            scores[name].append(score_batch(function, outputs, batch))
    return FloatReference(
        batches=batches,
        rows=tuple(rows),
        scores={name: tuple(values) for name, values in scores.items()},
        signal=tuple(_energy(item) for item in rows),
        log_probabilities=tuple(torch.log_softmax(item[0].double(), 1) for item in rows),
        order=tuple(np.random.default_rng(_ORDER_SEED).permutation(len(batches)).tolist()),
    )


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured of a candidate.

    Attributes:
        measurements: By name.
        stopped: Why the measurement ended before the last sample, None where it did not.
    """

    measurements: dict[str, Measurement]
    stopped: str | None = None


def measure_quality(
    run: Callable[[tuple[Tensor, ...]], Any],
    reference: FloatReference,
    functions: Functions,
    kind: Kind,
    prefix: str = "",
    bar: Bar | None = None,
) -> Quality:
    """Measure a candidate on the reference's samples.

    `accuracy` is the metric's mean; `accuracy_drop` float minus candidate, with the standard
    error of the paired differences; `sqnr_db` = 10 log10(sum signal / sum noise) over all
    outputs, with its standard error by the delta method for a ratio of means; `kl` the mean over
    samples of KL(softmax(float) || softmax(candidate)) of the first output, in nats; `loss` is the
    mean of the user's loss, where there is one, and `loss_rise` candidate minus float.

    Batches are taken in a fixed order that spreads over the data set, so that a subset does not
    depend on how the data are sorted.

    Args:
        run: The candidate.
        reference: The float model's outputs on the same samples.
        functions: What scored the reference.
        kind: `emulated` where an op of the candidate is.
        prefix: Put before each name (`heldout_`).
        bar: What the candidate must be able to reach; None: measure on all samples.

    Raises:
        NotFiniteError: The candidate's outputs hold NaN or infinity; names the batch.
    """
    sums = _Sums(reference, functions, kind, prefix)
    looks = deque(look_after(reference.samples) if bar is not None else ())
    for index in reference.order:
        sums.add(index, run(reference.batches[index].inputs))
        if bar is not None and looks and looks[0] <= sums.samples < reference.samples:
            while looks and looks[0] <= sums.samples:
                looks.popleft()
            found = sums.measurements()
            reason = why_stop(bar, found)
            if reason is not None:
                return Quality(found, reason)
    return Quality(sums.measurements())


class _Sums:
    """What was seen of a candidate so far, batch by batch."""

    def __init__(
        self, reference: FloatReference, functions: Functions, kind: Kind, prefix: str
    ) -> None:
        self._reference = reference
        self._functions = functions
        self._kind = kind
        self._prefix = prefix
        self._seen: list[int] = []
        self._noise: list[Floats] = []
        self._divergence: list[Floats] = []
        self._scores: dict[str, list[Tensor]] = {name: [] for name in functions}
        self.samples = 0

    def add(self, index: int, outputs: Any) -> None:
        """Take in the outputs of one batch."""
        batch, expected = self._reference.batches[index], self._reference.rows[index]
        rows = output_rows(outputs, batch)
        if not all(bool(torch.isfinite(row).all()) for row in rows):
            raise NotFiniteError(
                f"outputs hold NaN or infinity on batch {index}; where many plans fail so, pin "
                "the op to a wider scheme"
            )
        for name, function in self._functions.items():
            self._scores[name].append(score_batch(function, outputs, batch))
        self._seen.append(index)
        self.samples += len(batch)
        self._noise.append(_energy([a - b for a, b in zip(expected, rows, strict=True)]))
        self._divergence.append(_divergence(self._reference.log_probabilities[index], rows[0]))

    def measurements(self) -> dict[str, Measurement]:
        """Give the measurements over what was seen, in whichever order it came."""
        reference = self._reference
        ranked = sorted(range(len(self._seen)), key=self._seen.__getitem__)
        batches = [reference.batches[self._seen[item]] for item in ranked]
        signal = [reference.signal[self._seen[item]] for item in ranked]
        found = {
            "sqnr_db": signal_to_noise_db(
                np.concatenate(signal), np.concatenate([self._noise[item] for item in ranked])
            ),
            "kl": _mean(
                Scores(
                    np.concatenate([self._divergence[item] for item in ranked]),
                    np.ones(self.samples),
                )
            ),
        }
        for name, values in self._scores.items():
            candidate = _stack([values[item] for item in ranked], batches)
            expected = [reference.scores[name][self._seen[item]] for item in ranked]
            change, worse = _worsening(name, _stack(expected, batches).values, candidate.values)
            found |= {name: _mean(candidate), change: _mean(Scores(worse, candidate.weights))}
        return {
            self._prefix + name: Measurement(value, self._kind, stderr=stderr, samples=self.samples)
            for name, (value, stderr) in found.items()
        }


def _worsening(name: str, expected: Floats, candidate: Floats) -> tuple[str, Floats]:
    """The change for the worse, under the name that says which way that is."""
    if name == "loss":
        return "loss_rise", candidate - expected
    return f"{name}_drop", expected - candidate


def signal_to_noise_db(signal: Floats, noise: Floats) -> tuple[float, float]:
    """Signal-to-quantization-noise ratio and its standard error, in decibels.

    With R = sum(noise) / sum(signal), the variance of R is that of the residuals noise - R signal
    over n mean(signal)^2 (Cochran, Sampling Techniques, 3rd ed., eq. 2.45), and the standard
    error in decibels is 10 / ln(10) * se(R) / R.

    Args:
        signal: Shape (n,): energy of each sample's float outputs.
        noise: Shape (n,): energy of each sample's error.

    >>> signal_to_noise_db(np.array([100.0, 100.0]), np.array([1.0, 1.0]))
    (20.0, 0.0)
    """
    total_signal, total_noise = float(signal.sum()), float(noise.sum())
    if total_noise <= total_signal * 10 ** (-SQNR_CEILING_DB / 10):
        return SQNR_CEILING_DB, 0.0
    if total_signal == 0.0:
        return -SQNR_CEILING_DB, 0.0
    ratio = total_noise / total_signal
    count = len(signal)
    residual = noise - ratio * signal
    spread = math.sqrt(count / max(count - 1, 1) * float((residual**2).sum())) / total_signal
    return -10.0 * math.log10(ratio), 10.0 / math.log(10.0) * spread / ratio


def _energy(rows: Iterable[Tensor]) -> Floats:
    """Sum of squares of each sample over all outputs, shape (batch,)."""
    parts = [(row.double() ** 2).sum(1) for row in rows]
    return np.asarray(torch.stack(parts).sum(0).numpy(), dtype=np.float64)


def _divergence(log_p: Tensor, row: Tensor) -> Floats:
    """KL(p || softmax(row)) of each sample, shape (batch,), from the logarithms of p."""
    log_q = torch.log_softmax(row.double(), 1)
    return np.asarray((log_p.exp() * (log_p - log_q)).sum(1).numpy(), dtype=np.float64)


def _stack(scores: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
    """Scores and the samples behind each; a score of a whole batch weighs as its samples."""
    values = torch.cat(list(scores)).numpy()
    weights = [
        np.full(len(score), len(batch) / len(score))
        for score, batch in zip(scores, batches, strict=True)
    ]
    return Scores(np.asarray(values, dtype=np.float64), np.concatenate(weights))


def _mean(scores: Scores) -> tuple[float, float | None]:
    """Weighted mean and its standard error (None for a single value)."""
    total = float(scores.weights.sum())
    mean = float((scores.values * scores.weights).sum()) / total
    count = len(scores.values)
    if count < 2:
        return mean, None
    squares = float(((scores.weights * (scores.values - mean)) ** 2).sum())
    return mean, math.sqrt(count / (count - 1) * squares) / total
