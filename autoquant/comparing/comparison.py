"""Compare quantized models with their float model, op by op, over any number of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule, Node

from autoquant.comparing.own_error import OwnError, OwnMean, name_of
from autoquant.comparing.pairing import OpPair, feeds_of
from autoquant.comparing.reading import read_rows
from autoquant.comparing.reference import type_of
from autoquant.comparing.runs import QuantizedModel
from autoquant.comparing.sums import PairSums
from autoquant.comparing.weight_rows import rows_of_weights
from autoquant.core.findings.layers import (
    ComparisonMode,
    Distribution,
    LayerComparison,
    LayerError,
    LayerRow,
    TensorFormat,
)
from autoquant.core.findings.magnitudes import Magnitudes
from autoquant.core.measurement import Kind
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.core.sensitivity import Part
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import sizes_of
from autoquant.model.data.number_outputs import judged_pair
from autoquant.model.data.output_noise import to_decibels
from autoquant.model.data.outputs import divergence, named_outputs
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.watched import Watched

_INT8_STEPS = 255.0
_INT16_STEPS = 65535.0
_USUAL_SHARE = 0.999


def compare_layers(
    captured: Capture,
    found: Sequence[QuantizedModel],
    batches: Sequence[Batch],
    mode: ComparisonMode,
    progress: Progress,
    *,
    weights: bool = True,
    error: OwnError | None = None,
) -> LayerComparison:
    """Run the float model once and each quantized one beside it, batch by batch.

    Memory is that of one batch's activations, and 128 KiB for each op.

    Args:
        captured: The float model.
        found: One quantized model; several under n-shadows.
        batches: What to run them on.
        mode: What quantized ops are fed.
        progress: Shown the samples.
        weights: Whether to compare weights too.
        error: Of the user's, for every pair of activations.

    Returns:
        Under n-shadows without the ops that stay in fp32.

    Raises:
        ModelError: The models return no floating tensor.
        MetricError: `error` raised, or gives neither one number nor one for each sample.
    """
    expected = captured.graph
    samples = sum(sizes_of(batches))
    sides = [_Side(expected, item, mode, error) for item in found]
    wanted = {pair.expected[-1] for side in sides for pair in side.pairs}
    values: dict[str, Any] = {}

    def keep(node: Node, value: Any) -> None:
        if node.name in wanted:
            values[node.name] = value

    floats = Watched(expected, keep)
    outputs = _Outputs()
    with progress.stage("comparing layers", samples) as advance, torch.no_grad():
        for batch in batches:
            inputs = tuple(_channels_last(item) for item in batch.inputs)
            given = floats.run(*inputs)
            for side in sides:
                run = partial(side.run, values, batch, inputs)
                outputs.add(*judged_pair(given, run, inputs), batch)
            advance(len(batch))
    rows = [row for side in sides for row in side.rows()]
    if mode is ComparisonMode.N_SHADOWS:
        rows = [item for item in rows if item[0].scheme is not Scheme.FP32]
        order = {node.name: index for index, node in enumerate(expected.graph.nodes)}
        rows.sort(key=lambda row: order[row[0].tensor])
    weighed = found if weights else ()
    weight_rows = [row for item in weighed for row in rows_of_weights(captured, item)]
    kinds = {item.kind for item in found}
    read = read_rows(rows, weight_rows, mode)
    return LayerComparison(
        mode=mode,
        rows=read.rows,
        weights=read.weights,
        output=None if mode.feeds_float else outputs.error(),
        samples=samples,
        kind=Kind.EMULATED if Kind.EMULATED in kinds else Kind.MEASURED,
        distributions=tuple(item for _, item in rows),
        notices=tuple(notice for item in found for notice in item.notices),
        own=None if error is None else name_of(error),
    )


class _Side:
    """One quantized model, and what was seen of its ops."""

    def __init__(
        self,
        expected: GraphModule,
        found: QuantizedModel,
        mode: ComparisonMode,
        error: OwnError | None,
    ) -> None:
        self.pairs = found.pairs()
        self._expected, self._found = expected, found
        self._sums: dict[OpPair, PairSums] = {}
        self._error, self._own = error, dict[OpPair, OwnMean]()
        self._formats: dict[OpPair, TensorFormat] = {}
        self._shapes: dict[OpPair, tuple[int, ...]] = {}
        self._batch = 0
        self._run = found.start(self._see, feeds_float=mode.feeds_float)

    def run(self, values: Mapping[str, Any], batch: Batch, inputs: tuple[torch.Tensor, ...]) -> Any:
        """Run one batch; gives the outputs."""
        self._batch = len(batch)
        return self._run(inputs, values)

    def _see(self, pair: OpPair, expected: torch.Tensor, found: torch.Tensor) -> None:
        if not expected.is_floating_point():
            return
        if pair not in self._sums:
            self._sums[pair] = PairSums()
            self._formats[pair] = self._found.format_of(pair, found)
            self._shapes[pair] = tuple(expected.shape)
        self._sums[pair].add(expected, found, self._batch)
        if self._error is not None:
            own = self._own.setdefault(pair, OwnMean(self._error, pair.op))
            own.add(expected, found, self._batch)

    def rows(self) -> list[tuple[LayerRow, Distribution]]:
        """Rows in execution order, each with how its values are spread."""
        feeds = feeds_of(self._expected, self.pairs)
        return [
            self._row(pair, sums, [item for item in feeds[pair.expected[-1]] if item in self._sums])
            for pair in self.pairs
            if (sums := self._sums.get(pair)) is not None
        ]

    def _row(
        self, pair: OpPair, sums: PairSums, feeds: Sequence[OpPair]
    ) -> tuple[LayerRow, Distribution]:
        first, second = sums.moments()
        spread = Distribution(*sums.magnitudes())
        largest = max(abs(first.low), abs(first.high))
        usual = spread.expected.quantile(_USUAL_SHARE)
        row = LayerRow(
            op=pair.op,
            call=pair.call,
            part=Part.ACTIVATION,
            tensor=pair.expected[-1],
            scheme=pair.scheme,
            float_type=type_of(self._expected, pair.expected),
            quantized_type=self._found.type_of(pair),
            shape=self._shapes[pair],
            format=self._formats[pair],
            error=sums.error(self._formats[pair].scale),
            expected=first,
            found=second,
            feeds=tuple((item.op, item.call) for item in feeds),
            sqnr_estimates=_estimates(spread.expected, first.low, first.high),
            tail=largest / usual if usual else 1.0,
            channel_spread=_channel_spread(sums),
            not_finite=sums.not_finite,
            own=self._own[pair].value if pair in self._own else None,
        )
        return row, spread


class _Outputs:
    """The models' outputs: each on its own, and the divergence of the first one."""

    def __init__(self) -> None:
        self._sums: dict[str, PairSums] = {}
        self._divergence: list[torch.Tensor] = []

    def add(self, expected: Any, found: Any, batch: Batch) -> None:
        first, second = named_outputs(expected), named_outputs(found)
        for name, value in first.items():
            sums = self._sums.setdefault(name, PairSums())
            sums.add(value, second[name], len(batch))
        judged = next(iter(first))
        pair = (first[judged], torch.nan_to_num(second[judged]))
        self._divergence.append(divergence(*pair, len(batch)))

    def error(self) -> LayerError:
        """That of the worst output."""
        worst = min((sums.error(None) for sums in self._sums.values()), key=lambda e: e.sqnr_db)
        return replace(worst, kl=float(torch.cat(self._divergence).mean()))


def _estimates(spread: Magnitudes, low: float, high: float) -> dict[str, float]:
    """SQNR that each dtype's rounding alone would leave over the full range, in decibels."""
    span = max(high, 0.0) - min(low, 0.0)
    noises = {
        "int8": spread.rounding_noise(span / _INT8_STEPS),
        "int16": spread.rounding_noise(2 * max(abs(low), abs(high)) / _INT16_STEPS),
        "fp16": spread.half_noise(),
    }
    power = spread.power()
    return {name: to_decibels(noise / power) if power else 0.0 for name, noise in noises.items()}


def _channel_spread(sums: PairSums) -> float:
    if sums.peaks is None:
        return 1.0
    median = float(sums.peaks.median())
    return float(sums.peaks.max()) / median if median else 1.0


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    """Images in the memory format of int8 kernels, so that both models' tensors lie alike."""
    return value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
