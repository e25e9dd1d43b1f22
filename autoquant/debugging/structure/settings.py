"""Settings that are legal and seldom meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoquant.core.findings.concerns import Concern, Severity, Topic, Trial, attention, note
from autoquant.core.precision import Scheme
from autoquant.core.qconfigs import ObserverFacts, QConfigFacts
from autoquant.core.ranges import FixedRange, RangeRules
from autoquant.core.sites import OpKind, Site
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.debugging.structure.plan_facts import BY_JOB

PER_CHANNEL = frozenset({OpKind.CONV1D, OpKind.CONV2D, OpKind.CONV3D, OpKind.LINEAR})
"""Kinds whose int8 kernels take one weight scale for each output channel."""

_REDUCED = 7
_STEPS = 255
_UNUSED = 0.25
"""A fixed scale is suspicious when the values fill less than this share of it: two bits lost."""


@dataclass(frozen=True, slots=True, eq=False)
class Configured:
    """A site with what was configured for it."""

    site: Site
    qconfig: QConfigFacts | None
    output: str


def find_suspicious(
    configured: Sequence[Configured],
    statistics: CalibrationStatistics,
    engine: str,
    *,
    saturates: bool,
) -> Iterator[Concern]:
    """Find suspicious settings of observers; `saturates`: int8 kernels overflow on this CPU."""
    chosen = [(item, item.qconfig) for item in configured if item.qconfig is not None]
    yield from _wide_everywhere(chosen)
    yield from _per_tensor(chosen)
    yield from _range_bits(chosen, engine, saturates=saturates)
    for item, qconfig in chosen:
        yield from _fixed(item, qconfig.activation, statistics.tensors)


_Chosen = Sequence[tuple[Configured, QConfigFacts]]


def _wide_everywhere(chosen: _Chosen) -> Iterator[Concern]:
    names = [
        item.site.name
        for item, qconfig in chosen
        if qconfig.activation.dtype == "int16" and qconfig.weight.dtype == "int16"
    ]
    if names:
        yield attention(
            Topic.SETTINGS,
            names,
            "weights and activations are both int16",
            "many NPUs multiply 16 by 8 bits at most: they refuse it, or run it in software",
            "use int16 (8-bit weights, 16-bit activations) or int16_weight (the reverse)",
            Trial(scheme=Scheme.INT16),
        )


def _per_tensor(chosen: _Chosen) -> Iterator[Concern]:
    names = [
        item.site.name
        for item, qconfig in chosen
        if item.site.kind in PER_CHANNEL
        and qconfig.weight.dtype in ("qint8", "int16")
        and qconfig.weight.axis is None
    ]
    if names:
        yield attention(
            Topic.SETTINGS,
            names,
            "the weight has one scale for all channels, where kernels take one for each",
            "one large channel makes the grid of all others coarse",
            "use PerChannelMinMaxObserver (torch.per_channel_symmetric) for the weight",
            Trial(scheme=Scheme.INT8, weight_bits=_REDUCED + 1),
        )


def _range_bits(chosen: _Chosen, engine: str, *, saturates: bool) -> Iterator[Concern]:
    """Eight bits where the kernels overflow, seven where they do not."""
    names = [
        item.site.name
        for item, qconfig in chosen
        if item.site.kind.is_weighted
        and qconfig.activation.dtype == "quint8"
        and not qconfig.activation.is_dynamic
        and (_REDUCED in (qconfig.activation.bits, qconfig.weight.bits)) is not saturates
    ]
    if not names:
        return
    if saturates:
        yield attention(
            Topic.SETTINGS,
            names,
            f"int8 uses all 8 bits, and {engine}'s kernels saturate on this CPU (no VNNI)",
            "the 16-bit sum of two products overflows beyond 32,767: large activations are wrong",
            "set backend.reduce_range: auto (or reduce_range=True in the observer)",
            Trial(weight_bits=_REDUCED),
        )
    else:
        yield attention(
            Topic.SETTINGS,
            names,
            f"int8 uses 7 of 8 bits, and {engine}'s kernels do not saturate on this CPU",
            "a bit of resolution, 6 dB, is given away for nothing",
            "set backend.reduce_range: auto (or reduce_range=False in the observer)",
            Trial(weight_bits=_REDUCED + 1),
        )


_RAISE = (
    "check that the calibration data are typical; else raise the op to fp16, or state in "
    "calibration.fixed_ranges what the target really does"
)


def find_misfit_ranges(
    rules: RangeRules, tensors: Mapping[str, TensorStatistics]
) -> Iterator[Concern]:
    """Judge fixed ranges, of sites and inputs, by what calibration saw."""
    for item in rules.fixed:
        seen = next((tensors[name] for name in item.tensors if name in tensors), None)
        if seen is not None:
            yield _fit(item, seen)


def _fit(item: FixedRange, seen: TensorStatistics) -> Concern:
    by = "calibration.fixed_ranges" if item.is_job else "the target"
    key = f"{by} fixes {item.name} to [{item.low:.3g}, {item.high:.3g}]"
    found = f"[{seen.low:.3g}, {seen.high:.3g}]"
    step = (item.high - item.low) / _STEPS
    if seen.low < item.low - step or seen.high > item.high + step:
        return attention(
            Topic.SETTINGS,
            (item.name,),
            f"{key}, and calibration saw {found}: {_share_outside(item, seen):.1%} of its values "
            "lie outside",
            "what lies outside is clipped",
            f"calibration.fixed_ranges: leave {item.name} out, and calibration finds its range; or "
            f"widen it to what was seen: {{'{item.name}': {found}}}"
            if item.is_job
            else _RAISE,
            _trial(item),
        )
    if seen.high - seen.low < _UNUSED * (item.high - item.low):
        return attention(
            Topic.SETTINGS,
            (item.name,),
            f"{key}, and calibration saw only {found}",
            "most of the grid is never used: two bits or more are lost",
            "check that the calibration data are typical; else narrow it in "
            "calibration.fixed_ranges, or raise the op to int16 or fp16"
            if item.is_job
            else _RAISE,
            _trial(item),
        )
    return note(
        Topic.SETTINGS,
        (item.name,),
        f"{key}; calibration saw {found}",
        "a fixed range follows neither the model nor the data",
        "nothing, if the range is known; else leave it out of calibration.fixed_ranges"
        if item.is_job
        else "nothing: it fits",
    )


def _trial(item: FixedRange) -> Trial:
    """A range of the job is left out; the op of a range of the target's is raised."""
    return Trial(leaves_out=item.is_job)


def _share_outside(item: FixedRange, seen: TensorStatistics) -> float:
    """Share of the values outside a fixed range, each bin counted at its middle."""
    edges = np.linspace(seen.histogram_low, seen.histogram_high, len(seen.histogram) + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    outside = seen.histogram[(middles < item.low) | (middles > item.high)].sum()
    return float(outside / max(seen.histogram.sum(), 1))


def _fixed(
    item: Configured, observer: ObserverFacts, tensors: Mapping[str, TensorStatistics]
) -> Iterator[Concern]:
    """Judge a fixed scale by what calibration saw."""
    limits, seen = observer.fixed_range, tensors.get(item.output)
    if limits is None or seen is None or observer.fixed is None or observer.name == BY_JOB:
        return
    low, high = limits
    step = observer.fixed[0]
    where, bounds = (item.site.name,), f"[{low:.3g}, {high:.3g}]"
    found = f"[{seen.low:.3g}, {seen.high:.3g}]"
    if seen.low < low - step or seen.high > high + step:
        yield attention(
            Topic.SETTINGS,
            where,
            f"its scale is fixed to {bounds}, and calibration saw {found}",
            "what lies beyond is clipped",
            "widen the fixed range, or let calibration find it",
            Trial(scheme=Scheme.INT8),
        )
    elif seen.high - seen.low < _UNUSED * (high - low):
        # the definition of a sigmoid fixes its range; a user's own number may be a mistake
        by_definition = item.site.output_range is not None
        severity = Severity.NOTE if by_definition else Severity.ATTENTION
        make = note if severity is Severity.NOTE else attention
        yield make(
            Topic.SETTINGS,
            where,
            f"its scale is fixed to {bounds}, and calibration saw only {found}",
            "most of the grid is never used: two bits or more are lost",
            "check that the calibration data are typical; else raise the op to int16 or fp16",
        )
    elif item.site.output_range is None:
        yield note(
            Topic.SETTINGS,
            where,
            f"its scale is fixed to {bounds}; calibration saw {found}",
            "a fixed scale follows neither the model nor the data",
            "nothing, if the range is known; else let calibration find it",
        )
