"""Bad cases: the samples on which a quantized model is furthest from its float model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from typing import Any

from autoquant.core.json_values import json_of


class OutputMetric(Enum):
    """How far one sample's output is from the float model's.

    `cosine`: similarity of the two. `mse`, `l1`: mean squared and mean absolute error of its
    elements. `kl`: KL(softmax(float) || softmax(quantized)), nats. `sqnr`: signal to quantization
    noise, decibels, at most 150.
    """

    COSINE = "cosine"
    MSE = "mse"
    L1 = "l1"
    KL = "kl"
    SQNR = "sqnr"

    @property
    def is_score(self) -> bool:
        """Whether higher is better."""
        return self in (OutputMetric.COSINE, OutputMetric.SQNR)


@dataclass(frozen=True, slots=True)
class BadCase:
    """One sample and its value in one metric.

    Attributes:
        index: Its place in the data set, from 0.
        value: In the metric's unit; a quantized output that is not finite has the worst there is.
    """

    index: int
    value: float

    def to_json(self) -> dict[str, Any]:
        """Give the case as JSON values; JSON has no infinity, which becomes null."""
        return {"index": self.index, "value": self.value if math.isfinite(self.value) else None}


@dataclass(frozen=True, slots=True)
class DecibelCounts:
    """Samples counted by a level in decibels, in bins of fixed width.

    Attributes:
        low_db: Lower edge of the first bin; what lies below counts there.
        width_db: Width of a bin.
        counts: Samples in each bin.
    """

    low_db: float
    width_db: float
    counts: tuple[int, ...]

    @property
    def samples(self) -> int:
        """How many samples were counted."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The level that `share` of the samples do not exceed, to half a bin.

        >>> DecibelCounts(0.0, 1.0, (1, 0, 3)).quantile(0.5)
        2.5
        """
        wanted, seen = share * self.samples, 0
        for number, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return self.low_db + (number + 0.5) * self.width_db
        raise ValueError("no samples were counted")


@dataclass(frozen=True, slots=True)
class OwnWorst:
    """The worst samples by an error of the user's own.

    Attributes:
        name: Of the function.
        cases: Worst first; equally bad ones by index.
    """

    name: str
    cases: tuple[BadCase, ...]


@dataclass(frozen=True, eq=False)
class BadCases:
    """The worst samples of a data set, by output and metric.

    Attributes:
        outputs: Names of the model's floating outputs, as they lie in what it returns.
        worst: By output and metric, worst first; equally bad ones by index.
        sqnr: Samples by SQNR over all outputs together.
        noise: Samples by the energy of the error, 10 log10, over all outputs together.
        loud: Of the samples below an SQNR, of their own signal and of the mean one, those with most
            error, loudest first; as `noise` counts.
        sqnr_db: Of the whole data set: 10 log10 of summed signal over summed noise.
        own: By the user's own error, where there is one.
    """

    outputs: tuple[str, ...]
    worst: Mapping[tuple[str, OutputMetric], tuple[BadCase, ...]]
    sqnr: DecibelCounts
    noise: DecibelCounts
    loud: tuple[BadCase, ...]
    sqnr_db: float
    own: OwnWorst | None = None

    @property
    def samples(self) -> int:
        """How many samples were compared."""
        return self.sqnr.samples

    @property
    def indices(self) -> tuple[int, ...]:
        """Every sample that is among the worst: first those that lead a list, then the next."""
        own = () if self.own is None else (self.own.cases,)
        ranks = zip_longest(*own, *self.worst.values())
        return tuple(dict.fromkeys(case.index for rank in ranks for case in rank if case))

    def over_outputs(self, metric: OutputMetric) -> Sequence[tuple[str, BadCase]]:
        """The worst of all outputs in one metric, worst first, each sample once."""
        pairs = [(name, case) for name in self.outputs for case in self.worst[name, metric]]
        pairs.sort(key=lambda pair: (_badness(metric, pair[1].value), pair[1].index))
        first: dict[int, tuple[str, BadCase]] = {}
        for name, case in pairs:
            first.setdefault(case.index, (name, case))
        return list(first.values())

    def to_json(self) -> dict[str, Any]:
        """Give the bad cases as JSON values; `indices` is what other steps read."""
        own = self.own and {"own": {"name": self.own.name, "worst": json_of(self.own.cases)}}
        return {
            "indices": list(self.indices),
            "samples": self.samples,
            "sqnr_db": self.sqnr_db,
            "median_sqnr_db": self.sqnr.quantile(0.5),
            "worst": {
                name: json_of({metric: self.worst[name, metric] for metric in OutputMetric})
                for name in self.outputs
            },
            **(own or {}),
        }


def _badness(metric: OutputMetric, value: float) -> float:
    """A number that is lower for worse values."""
    return value if metric.is_score else -value
