"""Finds bad cases in one pass over float and quantized model."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor

from autoquant.comparing.own_error import OwnError, name_of, own_errors
from autoquant.core.findings.badcases import (
    BadCase,
    BadCases,
    DecibelCounts,
    OutputMetric,
    OwnWorst,
)
from autoquant.core.measurement import SQNR_CEILING_DB
from autoquant.debugging.samples.sample_error import energies, sample_errors, sqnr_db
from autoquant.errors import DataError, ModelError
from autoquant.model.data.batches import Batch
from autoquant.model.data.number_outputs import judged_pair, returned
from autoquant.model.data.outputs import named_outputs

_BIN_DB = 0.1


class Worst:
    """The worst samples by one number; memory depends on `top` alone."""

    def __init__(self, top: int, *, is_score: bool) -> None:
        self._sign = -1.0 if is_score else 1.0
        self._top = top
        self._heap: list[tuple[float, int]] = []  # (badness, -index): the mildest is on top

    def add(self, first: int, values: Tensor) -> None:
        """Take in one batch: its first sample's index, and one value for each sample."""
        for index, value in zip(count(first), (self._sign * values).tolist(), strict=False):
            if len(self._heap) < self._top:
                heapq.heappush(self._heap, (value, -index))
            else:
                heapq.heappushpop(self._heap, (value, -index))

    def finish(self) -> tuple[BadCase, ...]:
        """Give them, worst first; equally bad ones by index."""
        ranked = sorted(self._heap, reverse=True)
        return tuple(BadCase(-index, self._sign * badness) for badness, index in ranked)


class LevelCounter:
    """Counts samples by a level in bins of a tenth of a decibel between -150 and 150."""

    def __init__(self) -> None:
        bins = round(2 * SQNR_CEILING_DB / _BIN_DB)
        self._counts = torch.zeros(bins, dtype=torch.long)

    def add(self, values: Tensor) -> None:
        """Take in one batch: values in dB, shape (samples,)."""
        bins = ((values + SQNR_CEILING_DB) / _BIN_DB).floor().long()
        self._counts += torch.bincount(
            bins.clamp(0, len(self._counts) - 1), minlength=len(self._counts)
        )

    def finish(self) -> DecibelCounts:
        """Give the counts."""
        return DecibelCounts(-SQNR_CEILING_DB, _BIN_DB, tuple(self._counts.tolist()))


Run = Callable[[tuple[Tensor, ...]], Any]
"""Calls a model with a batch's inputs."""


def find_bad_cases(
    run_float: Run,
    run_quantized: Run,
    batches: Iterable[Batch],
    top: int,
    progress: Callable[[int], None] = lambda samples: None,
    *,
    outputs: Sequence[str] = (),
    error: OwnError | None = None,
    below_db: float = -SQNR_CEILING_DB,
) -> BadCases:
    """Find the worst samples by output and metric, and the loudest of those below an SQNR.

    Takes one batch after the other and keeps none: memory depends on the batch size and on `top`,
    not on how many samples there are.

    Raises:
        DataError: There is no batch.
        MetricError: `error` does not give one number for each sample.
        ModelError: The two return different outputs, or the float model's are not finite.
    """
    search: _Search | None = None
    for batch in batches:
        run = partial(run_quantized, batch.inputs)
        expected, found = judged_pair(run_float(batch.inputs), run, batch.inputs)
        search = search or _Search(_chosen(named_outputs(expected), outputs), top, error, below_db)
        search.add(expected, found, batch)
        progress(len(batch))
    if search is None:
        raise DataError("data: no batches", hint="give at least one batch")
    return search.finish()


def _chosen(known: Iterable[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The outputs that are meant, in the model's order."""
    names = tuple(known)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise DataError(
            f"the model has no output named {missing[0]!r}", hint=f"it has {', '.join(names)}"
        )
    return tuple(name for name in names if name in wanted) if wanted else names


class _Search:
    """What was seen so far."""

    def __init__(
        self, outputs: tuple[str, ...], top: int, error: OwnError | None, below_db: float
    ) -> None:
        self._outputs = outputs
        self._worst = {
            (name, metric): Worst(top, is_score=metric.is_score)
            for name in outputs
            for metric in OutputMetric
        }
        self._error = error
        self._own = Worst(top, is_score=getattr(error, "higher_is_better", False))
        self._sqnr, self._noises = LevelCounter(), LevelCounter()
        self._loud, self._below_db = Worst(top, is_score=False), below_db
        self._power = torch.zeros(len(outputs), dtype=torch.float64)
        self._signal = self._noise = torch.zeros((), dtype=torch.float64)
        self._samples = 0

    def add(self, expected: Any, found: Any, batch: Batch) -> None:
        """Take in what both models return for one batch."""
        wants, haves = (self._named(item) for item in (expected, found))
        starts = all(item.ndim and len(item) == len(batch) for item in wants)
        samples = len(batch) if starts else 1  # a batch without rows is judged as a whole
        want, have = ([_rows(item, samples) for item in items] for items in (wants, haves))
        self._check(want, have)
        for name, wanted, found_there in zip(self._outputs, wants, haves, strict=True):
            for metric, values in sample_errors(wanted, found_there, samples).items():
                self._worst[name, metric].add(self._samples, values)
        if self._error is not None:
            pair = returned(expected), returned(found)
            self._own.add(self._samples, own_errors(self._error, *pair, samples))
        self._power += torch.stack([item.double().square().sum() for item in want])
        signal, noise = energies(want, have, self._power / (self._samples + samples))
        sqnr, level = sqnr_db(signal, noise), -sqnr_db(torch.ones_like(noise), noise)
        self._sqnr.add(sqnr)
        self._noises.add(level)
        first, self._samples = self._samples, self._samples + samples
        self._signal, self._noise = self._signal + signal.sum(), self._noise + noise.sum()
        # an output near zero has lost nothing that the others' size would notice
        lost = sqnr_db(signal.clamp_min(self._signal / self._samples), noise) < self._below_db
        self._loud.add(first, level.where(lost, -torch.inf))

    def _named(self, returned: Any) -> list[Tensor]:
        """The outputs to look at; of a model that returns others, all of those."""
        named = named_outputs(returned)
        known = all(name in named for name in self._outputs)
        return [named[name] for name in self._outputs] if known else list(named.values())

    def _check(self, expected: list[Tensor], found: list[Tensor]) -> None:
        wanted, given = ([tuple(item.shape) for item in rows] for rows in (expected, found))
        if wanted != given:
            raise ModelError(
                f"the quantized model gives outputs of {given} (samples, elements), the float "
                f"model of {wanted}",
                hint="compare a model with its own quantized version",
            )
        if not all(bool(item.isfinite().all()) for item in expected):
            raise ModelError(
                "the float model's outputs hold NaN or infinity in the batch that begins at "
                f"sample {self._samples}",
                hint="check that batch, and the model on it",
            )

    def finish(self) -> BadCases:
        """Give the bad cases."""
        return BadCases(
            outputs=self._outputs,
            worst={key: worst.finish() for key, worst in self._worst.items()},
            sqnr=self._sqnr.finish(),
            noise=self._noises.finish(),
            loud=tuple(case for case in self._loud.finish() if math.isfinite(case.value)),
            sqnr_db=float(sqnr_db(self._signal, self._noise)),
            own=None if self._error is None else OwnWorst(name_of(self._error), self._own.finish()),
        )


def _rows(value: Tensor, samples: int) -> Tensor:
    return value.reshape(samples if value.ndim and len(value) == samples else 1, -1)
