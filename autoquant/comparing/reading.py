"""Say why an op is far from float: which part of its error is the largest, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autoquant.core.findings.layers import (
    LOUD_CHANNELS,
    Cause,
    ComparisonMode,
    Distribution,
    LayerRow,
    Reading,
)
from autoquant.core.measurement import noise_ratio
from autoquant.core.precision import Scheme

ATTENTION_DB = 20.0
"""An op below this SQNR is read: its error has over 1% of its signal's power."""

ENOUGH_DB = 30.0
"""A dtype would do if it is estimated to reach this."""

_TAIL = 4.0
"""From here on a few values cost the others two of their bits."""

_WIDE = 4.0
"""From here on a scale was made for other data: reduced range alone doubles what is spanned."""

_EXPLAINED = 0.25

Key = tuple[str, int, Scheme | None]


@dataclass(frozen=True, slots=True, eq=False)
class ReadRows:
    """Rows with their readings."""

    rows: tuple[LayerRow, ...]
    weights: tuple[LayerRow, ...]


def read_rows(
    rows: Sequence[tuple[LayerRow, Distribution]],
    weights: Sequence[LayerRow],
    mode: ComparisonMode,
) -> ReadRows:
    """Read every row below 20 dB of SQNR.

    The error's power is set beside what each source would make of it: values beyond the scale's
    range, rounding to its steps, the weights' own error, and the error of the inputs; the largest
    is the cause, if it makes a quarter of the error.
    """
    book = _Book(rows, weights, mode)
    return ReadRows(
        rows=tuple(replace(row, reading=book.read(row, spread)) for row, spread in rows),
        weights=tuple(replace(row, reading=_read_weight(row)) for row in weights),
    )


class _Book:
    """All rows by key, for looking up an op's inputs and weights."""

    def __init__(
        self,
        rows: Sequence[tuple[LayerRow, Distribution]],
        weights: Iterable[LayerRow],
        mode: ComparisonMode,
    ) -> None:
        self._rows: Mapping[Key, tuple[LayerRow, Distribution]] = {
            (row.op, row.call, row.scheme): (row, spread) for row, spread in rows
        }
        self._by_call = {(row.op, row.call): (row, spread) for row, spread in rows}
        self._weights = {(row.op, row.scheme): row for row in weights}
        self._feeds_float = mode.feeds_float

    def read(self, row: LayerRow, spread: Distribution) -> Reading | None:
        """Read one activation; None where it is close to float."""
        if row.error.sqnr_db >= ATTENTION_DB and not row.not_finite:
            return None
        if row.not_finite:
            return _overflowed(row)
        inputs = [self._find(row, feed) for feed in row.feeds]
        parts = {
            Cause.OUT_OF_RANGE: _clipping(row, spread),
            Cause.TOO_COARSE: _rounding(row, spread),
            Cause.WEIGHTS: self._of_weights(row),
            Cause.INHERITED: row.expected.power * max(map(self._ratio, inputs), default=0.0),
        }
        cause = max(parts, key=lambda item: parts[item])
        share = parts[cause] / row.error.mse if row.error.mse else 0.0
        if share < _EXPLAINED:
            return _of_inputs(inputs)
        if cause is Cause.INHERITED:
            return _inherited(max(inputs, key=self._ratio)[0])
        return _SENTENCES[cause](row)

    def _find(self, row: LayerRow, feed: tuple[str, int]) -> tuple[LayerRow, Distribution]:
        return self._rows.get((*feed, row.scheme)) or self._by_call[feed]

    def _of_weights(self, row: LayerRow) -> float:
        weight = self._weights.get((row.op, row.scheme))
        return row.expected.power * noise_ratio(weight.error.sqnr_db) if weight else 0.0

    def _ratio(self, found: tuple[LayerRow, Distribution]) -> float:
        """Noise-to-signal ratio of what an op is fed."""
        row, spread = found
        if not self._feeds_float:
            return noise_ratio(row.error.sqnr_db)
        power = row.expected.power
        return (_clipping(row, spread) + _rounding(row, spread)) / power if power else 0.0


def _clipping(row: LayerRow, spread: Distribution) -> float:
    if row.format.low is None or row.format.high is None:
        return 0.0
    step = row.format.scale or 0.0
    return spread.expected.clipping_noise(row.format.low - step / 2, row.format.high + step / 2)


def _rounding(row: LayerRow, spread: Distribution) -> float:
    if row.format.scale is not None:
        return spread.expected.rounding_noise(row.format.scale)
    return spread.expected.half_noise() if row.format.dtype == "float16" else 0.0


def _read_weight(row: LayerRow) -> Reading | None:
    if row.error.sqnr_db >= ATTENTION_DB:
        return None
    scales = row.format.scale_count
    evidence = f"the weight itself is at {row.error.sqnr_db:.1f} dB ({scales or 'no'} scales)"
    if scales == 1:
        return Reading(Cause.WEIGHTS, evidence, "give each output channel a scale of its own")
    return Reading(Cause.WEIGHTS, evidence, "store it in int16 (int16_weight) or fp16")


def _of_weights(row: LayerRow) -> Reading:  # noqa: ARG001
    return Reading(
        Cause.WEIGHTS,
        "its weight's rounding alone makes an error of this size",
        "per-channel scales where there is one, else int16_weight or fp16",
    )


def _out_of_range(row: LayerRow) -> Reading:
    low, high = row.expected.low, row.expected.high
    return Reading(
        Cause.OUT_OF_RANGE,
        f"float values span [{low:.3g}, {high:.3g}], {row.format.dtype} ends at "
        f"[{row.format.low:.3g}, {row.format.high:.3g}]: most of the error is clipping",
        f"calibrate on data like these, or by minmax: it needs [{low:.3g}, {high:.3g}]",
    )


def _too_coarse(row: LayerRow) -> Reading:
    low, high = row.expected.low, row.expected.high
    width = _width(row)
    if width >= _WIDE:
        return Reading(
            Cause.TOO_COARSE,
            f"float values span [{low:.3g}, {high:.3g}], 1/{width:.0f} of what the scale spans, "
            f"in steps of {row.format.scale or 0:.3g}",
            "calibrate on data like these: over their own range int8 would be at "
            f"{row.sqnr_estimates['int8']:.0f} dB (estimated)",
        )
    if _has_outliers(row):
        return _outliers(row)
    return Reading(
        Cause.TOO_COARSE,
        f"the range is right, but a step of {row.format.scale or 0:.3g} is coarse for values of "
        f"rms {row.expected.power**0.5:.3g}",
        _finer(row),
    )


def _width(row: LayerRow) -> float:
    """What a format spans over what the float values span."""
    if row.format.low is None or row.format.high is None:
        return 1.0
    span = max(row.expected.high, 0.0) - min(row.expected.low, 0.0)
    return (row.format.high - row.format.low) / span if span else 1.0


def _outliers(row: LayerRow) -> Reading:
    return Reading(
        Cause.OUTLIERS,
        _outlier_evidence(row),
        f"{_outlier_advice(row)}, or {_finer(row)}",
    )


def _of_inputs(inputs: Iterable[tuple[LayerRow, Distribution]]) -> Reading:
    """Where no part explains the error: an input's outliers hide its other channels."""
    guilty = [item for item, _ in inputs if item.format.scale is not None and _has_outliers(item)]
    if guilty:
        worst = max(guilty, key=lambda item: item.channel_spread)
        return Reading(
            Cause.OUTLIERS,
            f"its input {worst.label}: {_outlier_evidence(worst)}",
            f"{_outlier_advice(worst)} there, or {_finer(worst)}",
        )
    return Reading(
        Cause.UNEXPLAINED,
        "neither range, steps, weights nor inputs make an error of this size",
        "compare shadowed; then the kernel with its reference (diagnose)",
    )


def _inherited(source: LayerRow) -> Reading:
    return Reading(
        Cause.INHERITED,
        f"its input {source.label} is at {source.error.sqnr_db:.1f} dB already",
        f"look at {source.label} first; `--mode shadowed` shows the op's own error",
    )


def _overflowed(row: LayerRow) -> Reading:
    return Reading(
        Cause.OUT_OF_RANGE,
        f"{row.not_finite} values are NaN or infinite in {row.format.dtype} or in float",
        f"float values span [{row.expected.low:.3g}, {row.expected.high:.3g}]: use int16, bf16 or "
        "fp32",
    )


def _has_outliers(row: LayerRow) -> bool:
    return row.tail >= _TAIL or row.channel_spread >= LOUD_CHANNELS


def _outlier_evidence(row: LayerRow) -> str:
    if row.channel_spread >= LOUD_CHANNELS:
        return f"a channel reaches {row.channel_spread:.0f} times the median one and sets the scale"
    return f"the largest value is {row.tail:.0f} times what 99.9% of them keep to"


def _outlier_advice(row: LayerRow) -> str:
    """Clipping mends single values; of a whole channel it would destroy the signal."""
    if row.channel_spread >= LOUD_CHANNELS:
        return "equalise the channels"
    return "calibrate by percentile"


def _finer(row: LayerRow) -> str:
    """Which dtype would do, by the estimate of its rounding alone."""
    for name in ("int16", "fp16"):
        if row.sqnr_estimates.get(name, 0.0) >= ENOUGH_DB:
            return f"use {name}: {row.sqnr_estimates[name]:.0f} dB (estimated)"
    return "keep it in fp32"


_SENTENCES: Mapping[Cause, Callable[[LayerRow], Reading]] = {
    Cause.OUT_OF_RANGE: _out_of_range,
    Cause.TOO_COARSE: _too_coarse,
    Cause.WEIGHTS: _of_weights,
}
