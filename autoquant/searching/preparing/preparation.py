"""Everything before the first candidate: capture, calibration, engine, space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path

from autoquant.backends.boundaries import Edge, find_edges
from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.equalisation import Equalisation, Equalise
from autoquant.core.evaluation import Phase
from autoquant.core.json_values import json_of
from autoquant.core.progress import Progress
from autoquant.core.ranges import ObserverName
from autoquant.core.sites import check_sites
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import DataError
from autoquant.job import Setup
from autoquant.model.calibration.calibrate import calibrate, digest_of
from autoquant.model.calibration.range_rules import bind_ranges, own_ranges
from autoquant.model.data.batches import take_samples
from autoquant.model.data.data_set import InputsOf, sizes_of
from autoquant.model.graph.captured import Capture
from autoquant.model.subject import Subject
from autoquant.model.weights_digest import weights_digest
from autoquant.results.forms import BUILD, STATISTICS
from autoquant.results.kept import Kept
from autoquant.searching.measuring.evaluator import (
    Calibrated,
    MeasurementSettings,
    latency_inputs,
)
from autoquant.searching.measuring.own_costs import own_tables
from autoquant.searching.preparing.bench import SubjectBench, bind_setup
from autoquant.searching.preparing.earlier import function_of, timing_of
from autoquant.searching.preparing.equalising import SAMPLES as EQUALISING_SAMPLES
from autoquant.searching.preparing.equalising import (
    FewStatistics,
    equalised,
    few_statistics,
    find_equalisation,
)
from autoquant.searching.preparing.first_look import tell_first_look
from autoquant.searching.preparing.ranges import settle_ranges
from autoquant.searching.preparing.space import check_rules
from autoquant.searching.templates import Template, check_fit

FEW_SAMPLES = 100
"""Below this many calibration samples a warning is shown."""
_FEW_EVALUATED = 30
"""Below this many evaluation samples too: a standard error of fewer says little."""


@dataclass(frozen=True, eq=False)
class Preparation(Calibrated):
    """What every candidate of a search shares; in its settings the backend leaves nothing open.

    Attributes:
        space: The search space.
        phases: What is measured of each candidate.
        notices: What the user should know.
        kept: What earlier searches found out.
    """

    space: SearchSpace
    phases: tuple[Phase, ...]
    notices: tuple[str, ...]
    kept: Kept = field(default_factory=Kept)

    @property
    def engine(self) -> str:
        """Which of the target's engines runs plans (`onednn` of `torch/onednn`), if it has any."""
        return self.backend.name.partition("/")[2]

    @property
    def latency_batch(self) -> int:
        """Samples of a latency batch."""
        return self.settings.latency_batch or len(self.subject.evaluation[0])

    @cached_property
    def weights(self) -> str:
        """Digest of the given model's parameters and buffers."""
        return weights_digest(self.subject.given or self.subject.model)

    def with_space(self, space: SearchSpace, notices: Sequence[str]) -> Preparation:
        """The same with a narrower space and more notices; what is open stays open."""
        found = replace(self, space=space, notices=(*self.notices, *notices))
        found.__dict__.update(backend=self.backend, evaluator=self.evaluator)  # as they are kept
        return found

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Which site writes what which site reads."""
        return find_edges(self.captured)


def capture_subject(subject: Subject, progress: Progress) -> Capture:
    """Find the sites of the model; say what the user should know of how that went."""
    with progress.stage("reading the model", None):
        captured = subject.find_sites()
    for notice in (*subject.notices, *captured.notices):
        progress.note(notice)
    return captured


def calibrate_subject(
    subject: Subject,
    captured: Capture,
    progress: Progress,
    folder: Path | None = None,
    kept: Kept | None = None,
) -> CalibrationStatistics:
    """Calibrate, or read what an earlier process or search found."""
    batches = InputsOf(subject.calibration)
    samples = sum(sizes_of(subject.calibration))
    if samples < FEW_SAMPLES:
        progress.note(
            f"warning: {samples} calibration samples are few; ranges settle from about "
            f"{FEW_SAMPLES} on"
        )
    evaluated = sum(sizes_of(subject.evaluation))
    if 0 < evaluated < _FEW_EVALUATED:
        progress.note(
            f"warning: {evaluated} evaluation samples are few: a drop of 0 ± 0 tells little, and "
            f"standard errors mean something from about {_FEW_EVALUATED} on"
        )
    earlier = STATISTICS.known(folder)
    if earlier is not None:
        if earlier.digest != digest_of(captured.graph.state_dict().values(), batches):
            raise DataError(
                f"the model's weights or the calibration data are not those of {folder}",
                hint="--resume needs the same (seed what shuffles); or choose another output",
            )
        return earlier

    def find() -> CalibrationStatistics:
        with progress.stage("calibrating", samples) as advance:
            return calibrate(captured, batches, advance)

    def depends_on() -> object | None:
        function = function_of(captured)
        return function and (*function, digest_of((), batches))

    return (kept or Kept()).recall("calibration", STATISTICS, depends_on, find)


def measurement_settings(setup: Setup) -> MeasurementSettings:
    """How plans are built and measured; options of the backend may still be open (`auto`)."""
    backend, observer = setup.backend, setup.calibration.observer
    build = BuildSettings(
        backend=backend.name,
        # of tensors for which no observer of the user's own is named
        observer=observer if isinstance(observer, ObserverName) else ObserverName.HISTOGRAM,
        options=backend.build_options(),
    )
    return MeasurementSettings(
        build,
        quality_threads=setup.execution.cpus_per_worker,
        latency_threads=backend.threads,
        latency_batch=backend.batch_size,
        latency_pairs=backend.pairs,
    )


def settle_backend(bench: SubjectBench) -> MeasurementSettings:
    """Let the backend settle what its options leave open (`auto`), by timing plans."""
    settings = bench.settings
    settle = load_target(settings.build.backend).settle
    return replace(settings, build=settle(settings.build, bench))


def prepare(
    setup: Setup,
    subject: Subject,
    progress: Progress,
    folder: Path | None = None,
    templates: Sequence[Template] = (),
    *,
    named: Sequence[Template] = (),
    is_timed: bool = True,
    looks: bool = False,
    equalisation: Equalisation | None = None,
    settle: Callable[[SubjectBench], MeasurementSettings] = settle_backend,
    kept: Kept | None = None,
) -> Preparation:
    """Do everything before the first candidate.

    Where it is timed, what the backend leaves open (`auto`) is settled by timing plans, else by
    what works; `looks` tells what all int8 may lose, of the model as given first; `folder` is that
    of an earlier process, whose statistics may be taken over, `kept` is what earlier searches found
    out, and `named` are plans of any space for the same sites.

    Raises:
        PlanError: A rule or a template does not fit.
    """
    kept = kept or Kept()
    captured = capture_subject(subject, progress)
    check_rules(setup.space, captured.sites)
    for template in (*templates, *named):
        check_sites(template.name, dict.fromkeys(template.plan.schemes), captured.sites)
    settings = measurement_settings(setup).building(capture=captured.how)
    ranges = bind_ranges(setup.calibration, captured, fixed_by_target(settings.build, captured))
    settings = settings.building(ranges=ranges)
    earlier = BUILD.known(folder)
    if earlier is not None:
        settings = replace(settings, build=earlier)
    untimed = load_target(settings.build.backend).settle(settings.build, None)
    if not is_timed:
        settings = replace(settings, build=untimed)
    if settings.build.options == untimed.options:  # nothing is open: a mistake shows here already
        check_fit(templates, bind_setup(setup, captured, settings.build).space)
    if earlier is None:
        few = cache(partial(few_statistics, subject, captured))
        if looks:
            as_given = SubjectBench(subject, captured, few(), settings, setup, progress)
            tell_first_look(as_given, untimed.options)
        if equalisation is None:
            equalisation = _equalisation(
                subject, captured, settings.build, progress, kept, few, tries=is_timed
            )
        settings = settings.building(equalisation=equalisation)
    subject, captured = equalised(subject, captured, settings.build.equalisation)
    statistics = calibrate_subject(subject, captured, progress, folder, kept)
    if earlier is None:
        own = own_ranges(setup.calibration, captured, statistics, settings.build)
        settings = settings.building(ranges=replace(settings.build.ranges, own=own))
        bench = SubjectBench(subject, captured, statistics, settings, setup, progress)
        if looks and settings.build.equalisation:
            tell_first_look(bench, untimed.options)
        is_open = settings.build.options != untimed.options
        settings = _settle(bench, settle, kept, is_open=is_open)
    bound = bind_setup(setup, captured, settings.build)
    check_fit(templates, bound.space)
    tables = own_tables(setup.own_costs, captured.sites, bound.space)
    for notice in bound.notices:
        progress.note(notice)
    return Preparation(
        subject=subject,
        captured=captured,
        statistics=statistics,
        settings=replace(settings, own=tables),
        space=bound.space,
        phases=(Phase.QUALITY, Phase.LATENCY) if setup.is_timed else (Phase.QUALITY,),
        notices=(*subject.notices, *captured.notices, *bound.notices),
        kept=kept,
    )


def _equalisation(
    subject: Subject,
    captured: Capture,
    build: BuildSettings,
    progress: Progress,
    kept: Kept,
    few: FewStatistics,
    *,
    tries: bool,
) -> Equalisation:
    """How channels are rescaled: found, or read where an earlier search found it."""

    def find() -> BuildSettings:
        found = find_equalisation(subject, captured, build, progress, few, tries=tries)
        return replace(build, equalisation=found)

    def depends_on() -> object | None:
        function = function_of(captured)
        if function is None or subject.equalise is Equalise.NEVER:
            return None
        scored = [*take_samples(subject.evaluation, EQUALISING_SAMPLES), *subject.telling]
        seen = (*InputsOf(subject.calibration), *InputsOf(scored))
        own = (subject.equalise.value, tries, dict(subject.outputs.weights), json_of(build))
        return *function, *own, weights_digest(subject.model), digest_of((), seen)

    return kept.recall("equalisation", BUILD, depends_on, find).equalisation


def _settle(
    bench: SubjectBench,
    settle: Callable[[SubjectBench], MeasurementSettings],
    kept: Kept,
    *,
    is_open: bool,
) -> MeasurementSettings:
    """Settle what the backend leaves open, and `mix`; both take what an earlier search chose."""
    subject, captured, settings = bench.subject, bench.captured, bench.settings

    def find() -> BuildSettings:
        calibration = subject.calibration
        return settle_ranges(
            settle(bench), captured, bench.statistics, calibration, bench.progress
        ).build

    def depends_on() -> object | None:
        function = function_of(captured)
        observers = {settings.build.observer, *dict(settings.build.ranges.sites).values()}
        if function is None or not (is_open or ObserverName.MIX in observers):
            return None
        timed = timing_of(settings, latency_inputs(subject, settings.latency_batch))
        space = bench.setup.space.model_dump(mode="json")
        return *function, json_of(settings.build), bench.statistics.digest, timed, space

    build = kept.recall("choice of engine and observers", BUILD, depends_on, find)
    return replace(settings, build=build)


def fixed_by_target(settings: BuildSettings, captured: Capture) -> dict[str, tuple[float, float]]:
    """By site, the range that the target's own numerics fix."""
    target = load_target(settings.backend)
    found = ((site.name, target.fixed_range(settings, site)) for site in captured.sites)
    return {name: ends for name, ends in found if ends is not None}
