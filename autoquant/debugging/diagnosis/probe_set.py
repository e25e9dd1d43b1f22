"""The few samples on which what-ifs are tried, and the one number made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from autoquant.core.findings.diagnosis import Pattern
from autoquant.debugging.badcases import runs_of
from autoquant.debugging.samples.sample_error import energies, noise_ratio
from autoquant.model.data.batches import Batch, join_batches, take_samples
from autoquant.model.data.data_set import pick_samples
from autoquant.model.data.outputs import output_rows
from autoquant.searching.pair import Pair


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSet:
    """Typical samples, and behind them the bad ones.

    Attributes:
        batch: All of them, without targets.
        typical: How many come first.
        pattern: Whether the typical or the bad ones count.
    """

    batch: Batch
    typical: int
    pattern: Pattern

    def loss(self, noise: Tensor) -> float:
        """Median noise of the typical samples; where few are bad, the mean of the bad ones.

        The median, because one outlier among the typical samples must not speak for all.

        Args:
            noise: Noise-to-signal ratio of each sample, shape (samples,).
        """
        if self.pattern is Pattern.SENSITIVE and len(noise) > self.typical:
            return float(noise[self.typical :].mean())
        return float(noise[: self.typical].median())


def build_probe(
    batches: Sequence[Batch], count: int, bad: Sequence[int], pattern: Pattern
) -> ProbeSet:
    """Take the first `count` samples of a data set, and behind them the bad ones of all of it.

    Where samples have several shapes, only those with that of the first bad one are taken.
    """
    chosen = pick_samples(batches, bad) if bad else ()
    shape = (*chosen, batches[0])[0].sample_shapes
    typical = take_samples([item for item in batches if item.sample_shapes == shape], count)
    return ProbeSet(join_batches([*typical, *chosen]), sum(map(len, typical)), pattern)


def noise_of(pair: Pair, batch: Batch) -> Tensor:
    """Noise-to-signal ratio of each sample, as `ProbeSet.loss` takes it."""
    expected, found = (output_rows(run(batch.inputs), batch) for run in runs_of(pair))
    return noise_ratio(*energies(expected, found))
