"""What was measured of a suspect, in a sentence with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoquant.core.findings.diagnosis import Cause
from autoquant.debugging.diagnosis.phrases import few, span
from autoquant.debugging.diagnosis.suspects import FLAT, Suspect, own_ratio


def _clipped(suspect: Suspect) -> str:
    first = suspect.audits[0]
    return (
        f"{len(suspect.audits)} tensors are clipped, first {first.tensor} at {first.op}: its range "
        f"is {span(first.low, first.high)}, the data reach "
        f"{span(first.clipping.low, first.clipping.high)} on about "
        f"{first.clipping.effective_samples:.0f} of {first.clipping.samples} samples; clipping "
        f"loses {first.clip_ratio:.3g} times what rounding does"
    )


def _outlier_sample(suspect: Suspect) -> str:
    return f"sample {few(suspect.samples)} is out of range: {_clipped(suspect)}"


def _saturated(suspect: Suspect) -> str:
    item = suspect.audits[0]
    return (
        f"{few(item.readers)} reads {item.tensor} on a range of {span(item.low, item.high)}, of "
        f"which beyond +-{FLAT:g} it is flat: its step of {item.step:.3g} leaves "
        f"{2 * FLAT / item.step:.0f} levels where the function changes"
    )


def _outlier_calibration(suspect: Suspect) -> str:
    item = suspect.audits[0]
    return (
        f"calibration sample {few(suspect.samples)} sets the ranges of {len(suspect.audits)} "
        f"tensors: that of {item.tensor} at {item.op} is {item.over_samples:.0f} times what the "
        "median sample needs"
    )


def _varying(suspect: Suspect) -> str:
    item = max(suspect.audits, key=lambda item: own_ratio(item, item.over_samples))
    return (
        f"the ranges of {len(suspect.audits)} tensors differ from sample to sample, most at "
        f"{item.tensor} ({item.op}): one static scale is {item.over_samples:.0f} times what the "
        f"median sample needs, and {len(item.wide_samples())} of {len(item.sample_widths)} "
        "calibration samples need more than a quarter of it"
    )


def _channels(suspect: Suspect) -> str:
    item = max(suspect.audits, key=lambda item: own_ratio(item, item.over_channels))
    return (
        f"channels {few(item.wide_channels())} of {len(item.channel_widths)} set the range of "
        f"{item.tensor} ({item.op}): it is {item.over_channels:.0f} times what the median channel "
        "needs, and one scale serves all channels of an activation"
    )


def _weights(suspect: Suspect) -> str:
    return (
        f"the weights of {few(suspect.weights)} have one scale for all channels, and the largest "
        f"channel is {suspect.ratio:.0f} times the median one"
    )


EVIDENCE: Mapping[Cause, Callable[[Suspect], str]] = {
    Cause.OUTLIER_SAMPLE: _outlier_sample,
    Cause.OUTLIER_CALIBRATION: _outlier_calibration,
    Cause.CLIPPED_RANGE: _clipped,
    Cause.VARYING_RANGE: _varying,
    Cause.SATURATED: _saturated,
    Cause.OUTLIER_CHANNELS: _channels,
    Cause.PER_TENSOR_WEIGHT: _weights,
}
"""A sentence for each cause."""
