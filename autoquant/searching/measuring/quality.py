"""Quality: a candidate's outputs against float on the same samples, paired."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoquant.core.evaluation import Threshold
from autoquant.core.measurement import Kind, Measurement
from autoquant.errors import BackendError, ModelError
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import CACHE_BYTES, StreamedBatches, in_order, sizes_of
from autoquant.model.data.output_noise import OutputNoises
from autoquant.model.data.outputs import OutputWeights, divergence, named_outputs
from autoquant.model.data.scoring import Metric, Scores, is_loss, start_tally
from autoquant.searching.measuring.racing import look_batches, why_stop

_ORDER_SEED = 0

Run = Callable[[tuple[Tensor, ...]], Any]
"""Calls a model with the tensors of a batch."""

Functions = Mapping[str, Metric]
"""What scores outputs, by the name of its measurement: `accuracy`, and perhaps `loss`."""


@dataclass(frozen=True, slots=True, eq=False)
class FloatReference:
    """What the float model gives on a data set, computed once.

    Attributes:
        batches: The data.
        order: In which batches are taken: spread over the data set.
        run: The float model.
        outputs: By batch, every floating output by name, as far as they are kept; others are
            computed again.
        scores: By how many batches were taken, and function (the metric, the loss): what was
            scored by then. At each look and at the end.
        weights: Which outputs guide.
        of_fp32_plan: What is known of the engine's all-fp32 plan, where the outputs are its:
            scores on all samples, and how far it is off on those that the model itself ran.
    """

    batches: Sequence[Batch]
    order: tuple[int, ...]
    run: Run
    outputs: Mapping[int, Mapping[str, Tensor]]
    scores: Mapping[int, Mapping[str, Any]]
    weights: OutputWeights
    of_fp32_plan: Mapping[str, Measurement] | None = None

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return sum(sizes_of(self.batches))

    def measurements(self, prefix: str = "") -> dict[str, Measurement]:
        """Its own scores over the whole data set."""
        found = {}
        for name, scores in self.scores[len(self.order)].items():
            value, stderr = scores.mean()
            found[prefix + name] = Measurement(
                value, Kind.MEASURED, stderr=stderr, samples=self.samples
            )
        return found

    def taken(self) -> Iterator[tuple[int, Batch]]:
        """The batches with their places, in order."""
        return zip(self.order, in_order(self.batches, self.order), strict=True)

    def expected(self, index: int, batch: Batch) -> Mapping[str, Tensor]:
        """The float model's outputs on one batch."""
        kept = self.outputs.get(index)
        return named_outputs(self.run(batch.inputs)) if kept is None else kept


class NotFiniteError(ValueError):
    """A candidate's outputs hold NaN or infinity."""


def run_reference(
    run: Run,
    batches: Sequence[Batch],
    functions: Functions,
    weights: OutputWeights | None = None,
) -> FloatReference:
    """Run the float model over a data set.

    Raises:
        ModelError: Its outputs hold NaN or infinity; names the batch.
        MetricError: A function fails on them.
    """
    sizes = sizes_of(batches)
    order = tuple(np.random.default_rng(_ORDER_SEED).permutation(len(sizes)).tolist())
    looks = {*look_batches([sizes[index] for index in order]), len(order)}
    if isinstance(batches, StreamedBatches) and not batches.can_reorder:
        order, looks = tuple(range(len(sizes))), {len(sizes)}  # perhaps sorted: no subset will do
    tallies = {name: start_tally(function) for name, function in functions.items()}
    outputs: dict[int, Mapping[str, Tensor]] = {}
    scores = {}
    room = CACHE_BYTES
    for count, (index, batch) in enumerate(zip(order, in_order(batches, order), strict=True), 1):
        found = run(batch.inputs)
        named = named_outputs(found)
        room -= sum(value.numel() * value.element_size() for value in named.values())
        if room >= 0 or not outputs:
            outputs[index] = named
        if not all(bool(torch.isfinite(value).all()) for value in named.values()):
            raise ModelError(
                f"the float model's outputs hold NaN or infinity on batch {index}",
                hint="check that batch, and the model on it",
            )
        for tally in tallies.values():
            tally.add(found, batch)
        if count in looks:
            scores[count] = {name: tally.scores() for name, tally in tallies.items()}
    return FloatReference(
        batches=batches,
        order=order,
        run=run,
        outputs=outputs,
        scores=scores,
        weights=weights or OutputWeights(),
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
    run: Run,
    reference: FloatReference,
    functions: Functions,
    kind: Kind,
    prefix: str = "",
    threshold: Threshold | None = None,
) -> Quality:
    """Measure a candidate on the reference's samples.

    `accuracy` is the metric's mean; `accuracy_drop` float minus candidate, or candidate minus float
    where lower is better, with the standard error of the paired differences; `sqnr_db` = 10
    log10(sum signal / sum noise) of the output that guides, with its standard error by the delta
    method for a ratio of means; `kl` the mean over samples of KL(softmax(float) ||
    softmax(candidate)) of the first output, in nats; `loss` is the mean of the user's loss, where
    there is one, and `loss_rise` candidate minus float. Where there are several outputs,
    `sqnr_db.NAME` is that of each and `sqnr_db.all` that of all together; `sqnr_db` is the worst of
    them, or of the weighted noise where the job gives weights.

    Batches are taken in a fixed order that spreads over the data set, so that a subset does not
    depend on how the data are sorted.

    Args:
        run: The candidate.
        reference: The float model's outputs on the same samples.
        functions: What scored the reference.
        kind: `emulated` where an op of the candidate is.
        prefix: Put before each name (`heldout_`).
        threshold: What the candidate must be able to reach; None: measure on all samples.

    Raises:
        NotFiniteError: The candidate's outputs hold NaN or infinity; names the batch.
        BackendError: An output has more or fewer axes than the float model's.
    """
    sums = _Sums(reference, functions, kind, prefix)
    for count, (index, batch) in enumerate(reference.taken(), 1):
        sums.add(index, batch, run(batch.inputs))
        if threshold is not None and count in reference.scores and count < len(reference.order):
            found = sums.measurements()
            reason = why_stop(threshold, found)
            if reason is not None:
                return Quality(found, reason)
    return Quality(sums.measurements())


class _Sums:
    """What was seen of a candidate so far, batch by batch."""

    def __init__(
        self, reference: FloatReference, functions: Functions, kind: Kind, prefix: str
    ) -> None:
        self._reference = reference
        self._kind = kind
        self._prefix = prefix
        self._noises = OutputNoises()
        self._divergence: list[Scores] = []
        self._tallies = {name: start_tally(function) for name, function in functions.items()}
        self._losses = {name for name, function in functions.items() if is_loss(function)}
        self._batches = self._samples = 0
        first = reference.outputs[reference.order[0]]
        self._judged = next(iter(reference.weights.weights), next(iter(first)))

    def add(self, index: int, batch: Batch, outputs: Any) -> None:
        """Take in the outputs of one batch."""
        expected = self._reference.expected(index, batch)
        found = named_outputs(outputs)
        if not all(bool(torch.isfinite(value).all()) for value in found.values()):
            raise NotFiniteError(
                f"outputs hold NaN or infinity on batch {index}; where many plans fail so, pin "
                "the op to a wider scheme"
            )
        for name, value in expected.items():
            if name in found and found[name].ndim != value.ndim:  # sizes may depend on the values
                raise BackendError(
                    f"the output {name!r} has shape {tuple(found[name].shape)} here, in the float "
                    f"model {tuple(value.shape)}",
                    hint="pin the op that gives it to fp32 in the search space",
                )
        for tally in self._tallies.values():
            tally.add(outputs, batch)
        self._batches += 1
        self._samples += len(batch)
        self._noises.add(expected, found, len(batch))
        judged = expected[self._judged], found.get(self._judged)
        if judged[1] is not None and judged[0].shape == judged[1].shape:
            values = divergence(judged[0], judged[1], len(batch)).numpy()
            weight = np.full(len(values), len(batch) / len(values))
            self._divergence.append(Scores(np.asarray(values, dtype=np.float64), weight))

    def measurements(self) -> dict[str, Measurement]:
        """Give the measurements over what was seen."""
        found = self._noises.decibels(self._reference.weights)
        if self._divergence:
            joined = Scores(
                np.concatenate([item.values for item in self._divergence]),
                np.concatenate([item.weights for item in self._divergence]),
            )
            found["kl"] = joined.mean()
        for name, expected in self._reference.scores[self._batches].items():
            candidate = self._tallies[name].scores()
            # the change for the worse, under a name that says which way, but for the metric's
            change = f"{name}_rise" if name == "loss" else f"{name}_drop"
            rises = name == "loss" or name in self._losses
            worse = candidate.less(expected) if rises else expected.less(candidate)
            found |= {name: candidate.mean(), change: worse.mean()}
        return {
            self._prefix + name: Measurement(
                value, self._kind, stderr=stderr, samples=self._samples
            )
            for name, (value, stderr) in found.items()
        }
