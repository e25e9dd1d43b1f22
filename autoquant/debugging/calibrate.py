"""Observers and amounts of calibration data compared, on one plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from autoquant import metrics
from autoquant.core.calls import Count, Positive, checked
from autoquant.core.findings.calibrations import CalibrationRow, CalibrationTable
from autoquant.core.plan import Plan
from autoquant.core.progress import Progress, Silent
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.job import Setup
from autoquant.job.document import settings_from
from autoquant.model.building import build_subject
from autoquant.model.calibration.calibrate import calibrations
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.model.data.scoring import Metric, metric_title
from autoquant.results.terminal import shown
from autoquant.searching.measuring.evaluator import MeasurementSettings, with_threads
from autoquant.searching.measuring.quality import FloatReference, measure_quality, run_reference
from autoquant.searching.pair import find_plan, prepare_untimed
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.preparing.ranges import settle_ranges

EVALUATED = 512
"""Evaluation samples behind a row, unless said otherwise."""

_FIRST_STEPS = 10
_WANTED_STEPS = 128
_NAMES = ("sqnr_db", "accuracy", "accuracy_drop")


@checked
def compare_observers(
    model: nn.Module,
    *,
    calibration: object,
    evaluation: object,
    metric: Metric | str = metrics.accuracy,
    plan: str = "int8",
    observers: Sequence[ObserverName | str] = tuple(ObserverName),
    step: Positive | None = None,
    samples: Positive = EVALUATED,
    ranges: Mapping[str, Any] | None = None,
    engine: str = "auto",
    capture: str = "auto",
    leaf_modules: Sequence[str] = (),
    equalise: str = "auto",
    target: str | None = None,
    prepare: Prepare | None = None,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    cache_mb: Count = 256,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> CalibrationTable:
    """Compare how a plan does under observers and amounts of calibration data.

    Args:
        model: The trained float model; it is never changed.
        calibration: Inputs: tensors, a list of batches, or a DataLoader.
        evaluation: Inputs and targets, in the same forms.
        metric: `metric(outputs, targets)`, higher is better.
        plan: A scheme for all ops, a plan file, or a result folder.
        observers: Which to compare.
        step: Samples of a calibration step; None: so few that there are about 128 steps.
        samples: Evaluation samples behind each row.
        ranges: The section `calibration` of a job file (`{"percentile": 99.9}`).
        engine: A torch engine; `auto`: the first that runs here.
        capture: As `autoquant.search` takes it; so are all arguments down to `cache_mb`.
        leaf_modules: Paths that capture must not look into.
        equalise: `always` rescales channels first; `auto` and `never` do not.
        target: The key of the targets, where batches are mappings.
        prepare: Makes batches of the items of the data.
        dynamic: By input, the axes whose size may change.
        cache_mb: A larger data set is read again for each use.
        progress: Shown the progress; None: standard error is, False: nothing is.
        settings: Other sections of a job file, as mappings (`backend`, `outputs`...).

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    document = {"space": {"schemes": ["int8", "fp32"]}, "backend": {"engine": engine}}
    setup = settings_from(Setup, "compare_observers", document, ranges=ranges, sections=settings)
    subject = build_subject(
        model,
        calibration=calibration,
        evaluation=evaluation,
        metric=metric,
        leaf_modules=leaf_modules,
        equalise=equalise,
        capture=capture,
        calibration_samples=setup.calibration.samples,
        form=DataForm.of_call(target, prepare, dynamic, cache_mb),
        outputs=setup.outputs,
    )
    progress = shown(progress)
    prepared = prepare_untimed(setup, subject, progress, plan)
    return compare_calibrations(
        prepared,
        find_plan(plan, prepared, progress),
        progress,
        observers=tuple(map(ObserverName, observers)),
        step=step,
        samples=samples,
    )


def compare_calibrations(
    prepared: Preparation,
    plan: Plan,
    progress: Progress,
    *,
    observers: Sequence[ObserverName] = tuple(ObserverName),
    step: int | None = None,
    samples: int = EVALUATED,
) -> CalibrationTable:
    """Measure a plan under each observer, from the first 10, 20, 40... steps and from all.

    The float model is calibrated once; it is looked at after each amount. Fixed ranges of the job
    hold; what it says of single sites does not, since each observer is tried for all of them.
    """
    steps = list(_steps(prepared.subject.calibration, step))
    amounts = _amounts(len(steps))
    total = sum(len(inputs[0]) for inputs in steps)
    with progress.stage("calibrating step by step", total) as advance:
        found = list(calibrations(prepared.captured, steps, set(amounts), advance))
    trial = _Trial(prepared, plan, samples)
    rows = []
    with progress.stage("measuring observers", len(observers) * len(found)) as advance:
        for observer in observers:
            for count, statistics in found:
                rows.append(trial.measure(observer, count, statistics))
                advance(1)
    evaluated = trial.reference.samples
    return CalibrationTable(
        rows=tuple(rows),
        plan=dict(plan.counts()),
        evaluated=evaluated,
        metric=metric_title(prepared.subject.metric),
    )


class _Trial:
    """Measures one plan again and again, against the same float outputs."""

    def __init__(self, prepared: Preparation, plan: Plan, samples: int) -> None:
        self._prepared = prepared
        self._plan = plan
        self._batches = take_samples(prepared.subject.evaluation, samples)
        self.reference = self._run_float()

    def measure(
        self, observer: ObserverName, steps: int, statistics: CalibrationStatistics
    ) -> CalibrationRow:
        """Measure the plan with the ranges that an observer finds in some statistics."""
        settings = self._settings(observer, statistics)
        subject = self._prepared.subject
        backend = replace(self._prepared, statistics=statistics, settings=settings).backend
        executable = backend.build(self._plan)
        with with_threads(settings.quality_threads):
            quality = measure_quality(
                lambda inputs: backend.run(executable.module, inputs),
                self.reference,
                subject.functions,
                executable.kind,
            )
        chosen = Counter(item.value for _, item in settings.build.ranges.sites)
        return CalibrationRow(
            observer=observer,
            steps=steps,
            samples=statistics.samples,
            measurements={name: quality.measurements[name] for name in _NAMES},
            chosen=dict(chosen.most_common()),
        )

    def _settings(
        self, observer: ObserverName, statistics: CalibrationStatistics
    ) -> MeasurementSettings:
        before = self._prepared.settings
        alone = before.building(
            observer=observer, ranges=replace(before.build.ranges, sites=(), own=())
        )
        seen = take_samples(self._prepared.subject.calibration, statistics.samples)
        return settle_ranges(alone, self._prepared.captured, statistics, seen, Silent())

    def _run_float(self) -> FloatReference:
        subject, backend = self._prepared.subject, self._prepared.backend
        with with_threads(self._prepared.settings.quality_threads):
            return run_reference(
                lambda inputs: backend.run(subject.flat, inputs),
                self._batches,
                subject.functions,
            )


def _steps(batches: Sequence[Batch], size: int | None) -> Iterator[tuple[Tensor, ...]]:
    """The inputs in steps, none of which spans two batches."""
    size = size or max(1, sum(map(len, batches)) // _WANTED_STEPS)
    for batch in batches:
        yield from (part.inputs for part in batch.parts(size))


def _amounts(steps: int) -> tuple[int, ...]:
    """10, 20, 40... steps, and all; fewer than 20 steps begin with one."""
    first = _FIRST_STEPS if steps >= 2 * _FIRST_STEPS else 1
    doubled = []
    while first < steps:
        doubled.append(first)
        first *= 2
    return (*doubled, steps)
