"""Finds bad cases in one pass over float and quantized model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from autoquant.core.findings.badcases import BadCases, OutputMetric
from autoquant.debugging.samples.sample_error import energies, sample_errors, sqnr_db
from autoquant.debugging.samples.worst import LevelCounter, Worst
from autoquant.errors import DataError, ModelError
from autoquant.model.data.batches import Batch
from autoquant.model.data.outputs import named_outputs, output_rows

Run = Callable[[tuple[Tensor, ...]], Any]
"""Calls a model with a batch's inputs."""


def find_bad_cases(
    run_float: Run,
    run_quantized: Run,
    batches: Iterable[Batch],
    top: int,
    progress: Callable[[int], None] = lambda samples: None,
) -> BadCases:
    """Find the worst samples by output and metric.

    Takes one batch after the other and keeps none: memory depends on the batch size and on `top`,
    not on how many samples there are.

    Args:
        run_float: The float model.
        run_quantized: The quantized model; it returns what the float model returns.
        batches: The data; at least one.
        top: How many samples to keep for each output and metric.
        progress: Called after each batch with its number of samples.

    Raises:
        DataError: There is no batch.
        ModelError: The two return different outputs, or the float model's are not finite.
    """
    search: _Search | None = None
    for batch in batches:
        expected = run_float(batch.inputs)
        search = search or _Search(tuple(named_outputs(expected)), top)
        search.add(output_rows(expected, batch), output_rows(run_quantized(batch.inputs), batch))
        progress(len(batch))
    if search is None:
        raise DataError("data: no batches", hint="give at least one batch")
    return search.finish()


class _Search:
    """What was seen so far."""

    def __init__(self, outputs: tuple[str, ...], top: int) -> None:
        self._outputs = outputs
        self._worst = {
            (name, metric): Worst(metric, top) for name in outputs for metric in OutputMetric
        }
        self._sqnr, self._levels = LevelCounter(), LevelCounter()
        self._signal = self._noise = torch.zeros((), dtype=torch.float64)
        self._samples = 0

    def add(self, expected: list[Tensor], found: list[Tensor]) -> None:
        """Take in one batch."""
        self._check(expected, found)
        for name, want, have in zip(self._outputs, expected, found, strict=True):
            for metric, values in sample_errors(want, have).items():
                self._worst[name, metric].add(self._samples, values)
        signal, noise = energies(expected, found)
        self._sqnr.add(sqnr_db(signal, noise))
        self._levels.add(-sqnr_db(torch.ones_like(noise), noise))
        self._signal, self._noise = self._signal + signal.sum(), self._noise + noise.sum()
        self._samples += len(signal)

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
            noise=self._levels.finish(),
            sqnr_db=float(sqnr_db(self._signal, self._noise)),
        )
