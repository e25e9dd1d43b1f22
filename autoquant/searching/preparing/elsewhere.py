"""Another backend, on what a search has prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoquant.core.build import BuildSettings
from autoquant.core.evaluation import Phase
from autoquant.core.progress import Progress
from autoquant.core.statistics import CalibrationStatistics
from autoquant.job import Setup
from autoquant.model.calibration.range_rules import bind_ranges
from autoquant.model.graph.captured import Capture
from autoquant.model.subject import Subject
from autoquant.searching.measuring.evaluator import MeasurementSettings
from autoquant.searching.preparing.bench import SubjectBench, bind_setup
from autoquant.searching.preparing.preparation import (
    Preparation,
    fixed_by_target,
    measurement_settings,
    settle_backend,
)


def prepare_elsewhere(
    setup: Setup,
    subject: Subject,
    captured: Capture,
    statistics: CalibrationStatistics,
    build: BuildSettings,
    progress: Progress,
    *,
    settle: Callable[[SubjectBench], MeasurementSettings] = settle_backend,
) -> Preparation:
    """Prepare the backend that a setup names, on the statistics and ranges of a search.

    Args:
        setup: Names it.
        subject: Model and data.
        captured: The captured model.
        statistics: Of its calibration.
        build: How the search builds.
        progress: Shown the progress.
        settle: Settles what the backend's options leave open.

    Raises:
        BackendError: It cannot settle what its options leave open.
    """
    settings = measurement_settings(setup).building(capture=captured.how)
    bound = bind_ranges(setup.calibration, captured, fixed_by_target(settings.build, captured))
    # what a backend says of ranges is its own, not the search's
    ranges = replace(build.ranges, fixed=bound.fixed, weight_bits=None)
    settings = settings.building(ranges=ranges, equalisation=build.equalisation)
    bench = SubjectBench(subject, captured, statistics, settings, setup, progress)
    settings = settle(bench)
    space = bind_setup(setup, captured, settings.build).space
    phases = (Phase.QUALITY, Phase.LATENCY)
    return Preparation(subject, captured, statistics, settings, space, phases, ())
