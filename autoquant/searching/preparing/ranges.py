"""Ranges settled before the first candidate: what `mix` takes at each site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoquant.core.progress import Progress
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.errors import JobError
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.graph.captured import Capture
from autoquant.searching.measuring.evaluator import MeasurementSettings
from autoquant.searching.preparing.observer_choice import choose_observers

MIX_SAMPLES = 64
"""Calibration samples on which the observers of `mix` are compared."""


def settle_ranges(
    settings: MeasurementSettings,
    captured: Capture,
    statistics: CalibrationStatistics,
    calibration: Sequence[Batch],
    progress: Progress,
) -> MeasurementSettings:
    """Choose the observers of the sites with `mix`.

    Raises:
        JobError: `mix`, for a model without a graph.
    """
    before = dict(settings.build.ranges.sites)
    observers = {
        site.name: before.get(site.name, settings.build.observer) for site in captured.sites
    }
    if ObserverName.MIX not in observers.values():
        return settings
    if captured.how != "export":
        raise JobError(
            "calibration.observer: mix chooses by reference numerics, and the model was captured "
            "module by module",
            hint="name one observer",
        )
    batches = take_samples(calibration, MIX_SAMPLES)
    with progress.stage("choosing observers", sum(map(len, batches))) as advance:
        chosen = choose_observers(captured, statistics, settings.build, batches, advance)
    mixed = {
        name: chosen[name]
        for name, observer in observers.items()
        if observer is ObserverName.MIX and name in chosen
    }
    sites = tuple((before | mixed).items())
    return settings.building(ranges=replace(settings.build.ranges, sites=sites))
