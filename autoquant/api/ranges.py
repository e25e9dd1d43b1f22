"""Ranges settled before the first candidate: what `mix` takes at each site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoquant.analysis.observer_choice import choose_observers
from autoquant.api.watch import Watch
from autoquant.core.ranges import RangeRules
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.errors import StorageError
from autoquant.evaluate.evaluator import MeasurementSettings
from autoquant.model.batches import Batch, take_samples
from autoquant.model.capture import Capture
from autoquant.record.results import load_ranges

MIX_SAMPLES = 64
"""Calibration samples on which the observers of `mix` are compared."""


def settle_ranges(
    settings: MeasurementSettings,
    captured: Capture,
    statistics: CalibrationStatistics,
    calibration: Sequence[Batch],
    watch: Watch,
    folder: Path | None = None,
) -> MeasurementSettings:
    """Choose the observers of the sites with `mix`, or take over what an earlier process chose.

    Args:
        settings: Their engine is a real one.
        captured: The captured model.
        statistics: Of its tensors.
        calibration: Data to choose on; the first 64 samples are used.
        watch: Shown the progress.
        folder: Where an earlier process may have kept its choice.
    """
    known = _known_ranges(folder)
    if known is not None:
        return replace(settings, ranges=known)
    before = dict(settings.ranges.sites)
    observers = {site.name: before.get(site.name, settings.observer) for site in captured.sites}
    if ObserverName.MIX not in observers.values():
        return settings
    batches = take_samples(calibration, MIX_SAMPLES)
    with watch.stage("choosing observers", sum(map(len, batches))) as advance:
        chosen = choose_observers(captured, statistics, settings.quantization, batches, advance)
    mixed = {
        name: chosen[name]
        for name, observer in observers.items()
        if observer is ObserverName.MIX and name in chosen
    }
    sites = tuple((before | mixed).items())
    return replace(settings, ranges=replace(settings.ranges, sites=sites))


def _known_ranges(folder: Path | None) -> RangeRules | None:
    if folder is None:
        return None
    try:
        return load_ranges(folder)
    except StorageError:
        return None
