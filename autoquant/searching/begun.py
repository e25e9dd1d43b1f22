"""What a search is begun with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoquant.core.progress import Progress
from autoquant.job import Effort, SearchSettings
from autoquant.model.recipes import SubjectRecipe
from autoquant.results.findings import SearchFacts
from autoquant.results.folder import ResultFolder
from autoquant.results.recorders import Tracker
from autoquant.searching.interrupts import Interrupts
from autoquant.searching.target_node import TimedPlace
from autoquant.searching.templates import Template


@dataclass(frozen=True, slots=True)
class Begun:
    """What a search has from its first step to its last.

    Attributes:
        job: What is asked for.
        job_text: The same as a job file.
        recipe: Loads model, data and metric.
        templates: Plans that must be told of.
        timed: Where times are taken.
        deadline: By `time.monotonic`.
        folder: Where all of it is kept.
        facts: What is known of the job before it is prepared.
        environment: The machine that times are taken on.
        progress: What a person sees.
        tracker: MLflow, or nothing.
        interrupts: Signals, while they are taken.
    """

    job: SearchSettings
    job_text: str
    recipe: SubjectRecipe
    templates: Sequence[Template]
    timed: TimedPlace
    deadline: float
    folder: ResultFolder
    facts: SearchFacts
    environment: Mapping[str, Any]
    progress: Progress
    tracker: Tracker
    interrupts: Interrupts

    @property
    def is_quick(self) -> bool:
        """Whether the answer and a few plans beyond it are enough."""
        return self.job.budget.effort is Effort.QUICK
