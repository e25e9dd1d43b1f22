"""Where a search takes its times: in this process, or on the target node of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from autoquant.backends.targets import load_target
from autoquant.core.costs import CostTable
from autoquant.core.evaluation import Phase
from autoquant.core.measurement import Measurements
from autoquant.core.progress import Progress, Silent
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics
from autoquant.job import Execution, SearchSettings, Setup
from autoquant.model.recipes import SubjectRecipe
from autoquant.results.environment import describe_machine
from autoquant.searching.guidance import profile_here
from autoquant.searching.measuring.evaluator import MeasurementSettings
from autoquant.searching.preparing.bench import SubjectBench
from autoquant.searching.preparing.narrowing import narrow_space
from autoquant.searching.preparing.preparation import Preparation, settle_backend
from autoquant.searching.rivals import time_rivals

_Found = TypeVar("_Found")


class Here:
    """This process."""

    machine = staticmethod(describe_machine)
    settle = staticmethod(settle_backend)
    narrow = staticmethod(narrow_space)
    rivals = staticmethod(time_rivals)

    def baseline(self, prepared: Preparation) -> Measurements:
        """Measure the float model."""
        return prepared.evaluator.baseline()

    def profile(self, prepared: Preparation) -> CostTable:
        """Time ops and boundaries."""
        return profile_here(prepared)


@dataclass(slots=True)
class OnTarget:
    """The node of a cluster that the job names; each call loads the subject there.

    The float model is measured when the space is narrowed.

    Attributes:
        execution: Names it.
        recipe: Loads the subject.
    """

    execution: Execution
    recipe: SubjectRecipe
    _measured: Measurements = field(default_factory=dict)

    def machine(self) -> dict[str, Any]:
        """Name the machine, its CPU and its load."""
        return self._run(describe_machine)

    def settle(self, bench: SubjectBench) -> MeasurementSettings:
        """Settle what the backend's options leave open."""
        settings = bench.settings
        if load_target(settings.build.backend).settle(settings.build, None) == settings.build:
            return settings  # nothing is open
        with bench.progress.stage("settling the engine on the target node", None):
            return self._run(_settle, self.recipe, bench.setup, settings, bench.statistics)

    def narrow(self, prepared: Preparation, progress: Progress) -> Preparation:
        """Leave out what the target refuses."""
        with progress.stage("asking the target node", None):
            space, notices, self._measured = self._prepared(_narrow, prepared)
        for notice in notices:
            progress.note(notice)
        return prepared.with_space(space, notices)

    def baseline(self, prepared: Preparation) -> Measurements:
        """Measure the float model."""
        return self._measured or self._prepared(_baseline, prepared)

    def rivals(
        self, prepared: Preparation, job: SearchSettings, known: Measurements, progress: Progress
    ) -> Measurements:
        """Time the float model on the engines that the job names as rivals."""
        with progress.stage("timing rivals on the target node", None):
            timed = partial(time_rivals, job=job, known=known, progress=Silent())
            return self._prepared(timed, prepared)

    def profile(self, prepared: Preparation) -> CostTable:
        """Time ops and boundaries."""
        return self._prepared(profile_here, prepared)

    def _prepared(self, function: Callable[[Preparation], _Found], known: Preparation) -> _Found:
        parts = (known.statistics, known.settings, known.space, known.phases)
        found: _Found = self._run(_with_preparation, function, self.recipe, *parts)
        return found

    def _run(self, function: Callable[..., _Found], *arguments: Any) -> _Found:
        from autoquant.searching.measuring.workers.ray_target import run_on_target

        found: _Found = run_on_target(self.execution, function, *arguments)
        return found


TimedPlace = Here | OnTarget
"""Takes the times that a search is led by."""


def timed_place(job: SearchSettings, recipe: SubjectRecipe) -> TimedPlace:
    """Where a job takes its times."""
    if job.execution.kind == "ray" and job.execution.target is not None:
        return OnTarget(job.execution, recipe)
    return Here()


def _settle(
    recipe: SubjectRecipe,
    setup: Setup,
    settings: MeasurementSettings,
    statistics: CalibrationStatistics,
) -> MeasurementSettings:
    subject = recipe().equalised(settings.build.equalisation)
    captured = subject.find_sites()
    return settle_backend(SubjectBench(subject, captured, statistics, settings, setup, Silent()))


def _with_preparation(
    function: Callable[[Preparation], _Found],
    recipe: SubjectRecipe,
    statistics: CalibrationStatistics,
    settings: MeasurementSettings,
    space: SearchSpace,
    phases: tuple[Phase, ...],
) -> _Found:
    """Call a function with what the search has prepared, of a subject that is loaded here."""
    subject = recipe().equalised(settings.build.equalisation)
    captured = subject.find_sites()
    return function(Preparation(subject, captured, statistics, settings, space, phases, ()))


def _narrow(prepared: Preparation) -> tuple[SearchSpace, tuple[str, ...], Measurements]:
    found = narrow_space(prepared, Silent())
    return found.space, found.notices, _baseline(found)


def _baseline(prepared: Preparation) -> Measurements:
    return prepared.evaluator.baseline()
