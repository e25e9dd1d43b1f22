"""The job as frozen values: what to search, on what, how long, and where it is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    field_validator,
    model_validator,
)

from autoquant.core.backends import is_estimate
from autoquant.core.equalisation import Equalise
from autoquant.core.objectives import Goal, Objective
from autoquant.core.ranges import ObserverName
from autoquant.core.sensitivity import Procedure
from autoquant.job.backend import (
    BackendSettings,
    backend_from_text,
    backend_settings,
    check_rival,
    installed_rivals,
)
from autoquant.job.finetuning import Finetuning
from autoquant.job.mistakes import NAMED, OWN
from autoquant.job.own_cost import OwnCost, OwnEntry
from autoquant.job.section import (
    AnyEntry,
    Entry,
    EntryText,
    Score,
    Section,
    check_entry,
    entry_from_text,
)
from autoquant.job.space import SpaceRules

_LOG = logging.getLogger(__name__)
_OLD_CAPTURES = {"fx": "auto", "eager": "modules"}

METRICS = {
    name: f"autoquant.metrics:{name}" for name in ("accuracy", "agreement", "cosine", "mse", "top5")
}
"""Metrics that a job may name in short."""


def _metric_from_text(value: object) -> object:
    return {"entry": METRICS.get(value, value)} if isinstance(value, str) else value


def _check_metric(value: str) -> str:
    try:
        return check_entry(value)
    except ValueError as error:
        raise ValueError(f"{error}, or one of {', '.join(METRICS)}") from error


class Metric(Section):
    """A score where higher is better: the user's function, or the short name of a shipped one."""

    entry: EntryText

    _form = field_validator("entry")(_check_metric)


def _capture_from_text(value: object) -> object:
    """Read the names of older jobs."""
    known = _OLD_CAPTURES.get(value, value) if isinstance(value, str) else value
    if known != value:
        _LOG.warning("model.capture: %s is an old name, read as %s", value, known)
    return known


class ModelSource(Section):
    """Where the float model comes from."""

    entry: EntryText
    arguments: dict[str, Any] = Field(default_factory=dict)
    capture: Annotated[
        Literal["auto", "export", "modules"], BeforeValidator(_capture_from_text)
    ] = "auto"
    leaf_modules: Annotated[tuple[str, ...], Field(strict=False)] = ()
    equalise: Annotated[Equalise, Field(strict=False)] = Equalise.AUTO

    _form = field_validator("entry")(check_entry)


class DataSource(Section):
    """Where the data and the metric come from; `arguments` are given to each of the functions.

    `target`, `prepare` and `dynamic` say of what form batches are.
    """

    calibration: AnyEntry
    evaluation: AnyEntry
    heldout: AnyEntry | None = None
    target: Annotated[str, Field(min_length=1)] | None = None
    prepare: Annotated[Score, BeforeValidator(entry_from_text)] | None = None
    dynamic: dict[str, Annotated[tuple[int, ...], Field(strict=False)]] = Field(
        default_factory=dict
    )
    cache_mb: Annotated[int, Field(ge=0)] = 256
    metric: Annotated[Metric, BeforeValidator(_metric_from_text)]
    loss: Annotated[Score, BeforeValidator(entry_from_text)] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)


def _check_range(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"its low end {value[0]:g} is not below its high end {value[1]:g}")
    return value


Number = Annotated[float, Field(strict=False)]
KnownRange = Annotated[tuple[Number, Number], Field(strict=False), AfterValidator(_check_range)]


def _observer_form(value: object) -> str:
    is_entry = isinstance(value, str) and ":" in value
    return OWN if is_entry or callable(value) or isinstance(value, (Mapping, Entry)) else NAMED


Observer = Annotated[
    Annotated[ObserverName, Field(strict=False), Tag(NAMED)] | Annotated[OwnEntry, Tag(OWN)],
    Discriminator(_observer_form),
]
"""An observer by its name, or a function or a class of the user's own."""


class Calibration(Section):
    """How ranges are found; `sites` and `fixed_ranges` are by glob, later ones win."""

    observer: Observer = ObserverName.HISTOGRAM
    percentile: Annotated[float, Field(gt=50, le=100, strict=False)] = 99.99
    averaging: Annotated[float, Field(gt=0, le=1, strict=False)] = 0.01
    sites: dict[str, Observer] = Field(default_factory=dict)
    fixed_ranges: dict[str, KnownRange] = Field(default_factory=dict)
    samples: Annotated[int, Field(ge=1)] | None = None


class SensitivitySettings(Section):
    """How the ranking is measured: by which procedure, on how many evaluation samples."""

    method: Annotated[Procedure, Field(strict=False)] = Procedure.AUTO
    samples: Annotated[int, Field(ge=1)] = 128


class Constraints(Section):
    """What a candidate must keep to be on the frontier."""

    accuracy_drop: Annotated[float, Field(ge=0, strict=False)] | None = 0.01
    latency_ratio: Annotated[float, Field(gt=0, strict=False)] | None = None
    size_ratio: Annotated[float, Field(gt=0, strict=False)] | None = None
    int16_share: Annotated[float, Field(ge=0, le=1, strict=False)] | None = None


class Effort(Enum):
    """How much a search does.

    `quick`: the uniform plans and the program's best few under the limit. `normal`: until nothing
    that is left would gain enough. `thorough`: the same with a tenth of what is enough, after
    ladders of raised plans.
    """

    QUICK = "quick"
    NORMAL = "normal"
    THOROUGH = "thorough"


class Budget(Section):
    """How long to search; `trials` counts every candidate, and 0 means the seeds alone."""

    effort: Annotated[Effort, Field(strict=False)] = Effort.NORMAL
    trials: Annotated[int, Field(ge=0)] = 64
    minutes: Annotated[float, Field(gt=0, strict=False)] | None = None
    round_size: Annotated[int, Field(ge=1)] = 8


def _default_workers() -> int:
    return min(2, os.cpu_count() or 1)


class TargetNode(Section):
    """The kind of node on which everything is timed: one that has a resource, or these labels."""

    resource: Annotated[str, Field(min_length=1)] | None = None
    label: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _named(self) -> TargetNode:
        if (self.resource is None) is not bool(self.label):
            raise ValueError("name a resource or labels of the node, one of the two")
        return self


class Execution(Section):
    """Where candidates are evaluated."""

    kind: Literal["ray", "local"] = "ray"
    address: str | None = None
    workers: Annotated[int, Field(ge=1, le=10_000)] = Field(default_factory=_default_workers)
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0, strict=False)] = 0.0
    retries: Annotated[int, Field(ge=0)] = 2
    timeout: Annotated[float, Field(gt=0, strict=False)] | None = None
    wait: Annotated[float, Field(ge=0, strict=False)] = 120.0
    files: Annotated[
        tuple[Annotated[Path, Field(strict=False), AfterValidator(Path.resolve)], ...],
        Field(strict=False),
    ] = ()
    packages: Annotated[tuple[str, ...], Field(strict=False)] = ()
    target: TargetNode | None = None

    @model_validator(mode="after")
    def _for_a_cluster(self) -> Execution:
        if self.address is None:
            for key in ("files", "packages", "target"):
                if getattr(self, key):
                    raise ValueError(f"{key}: is for the nodes of a cluster; give its address")
        return self


class Tracking(Section):
    """The MLflow store."""

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)


def _form_of(value: object) -> str:
    return OWN if isinstance(value, (Mapping, OwnCost)) else NAMED


Wanted = Annotated[
    Annotated[Annotated[Objective, Field(strict=False)], Tag(NAMED)] | Annotated[OwnCost, Tag(OWN)],
    Discriminator(_form_of),
]
"""An objective by its name, or an entry for one of the user's own."""


def _goals(items: Iterable[Objective | OwnCost]) -> tuple[Goal, ...]:
    return tuple(item.goal if isinstance(item, OwnCost) else item for item in items)


class Setup(Section):
    """How a model is prepared, whatever is done with it: the sections that all commands read."""

    calibration: Calibration = Calibration()
    sensitivity: SensitivitySettings = SensitivitySettings()
    backend: Annotated[SerializeAsAny[BackendSettings], BeforeValidator(backend_settings)] = Field(
        default_factory=lambda: cast("BackendSettings", backend_settings({}))
    )
    space: SpaceRules
    objectives: Annotated[tuple[Wanted, ...], Field(strict=False)] = (
        Objective.OUTPUT_ERROR,
        Objective.LATENCY,
    )
    outputs: dict[str, Annotated[float, Field(gt=0, strict=False)]] = Field(default_factory=dict)
    execution: Execution = Field(default_factory=Execution)

    @field_validator("objectives")
    @classmethod
    def _trade(cls, value: tuple[Objective | OwnCost, ...]) -> tuple[Objective | OwnCost, ...]:
        goals = _goals(value)
        if len({goal.value for goal in goals}) != len(goals):
            raise ValueError("name each objective once")
        if not any(goal.is_quality for goal in goals) or all(goal.is_quality for goal in goals):
            raise ValueError(
                "a frontier trades quality for cost: name at least one of output_error, kl, "
                "accuracy and at least one of latency, size, bops, int16_share"
            )
        return value

    @model_validator(mode="after")
    def _backend_is_timed(self) -> Setup:
        if not self.is_timed:
            self.backend.check_untimed()
        return self

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The objectives, without where those of the user's own come from."""
        return _goals(self.objectives)

    @property
    def own_costs(self) -> tuple[OwnCost, ...]:
        """Where the objectives of the user's own come from."""
        return tuple(item for item in self.objectives if isinstance(item, OwnCost))

    @property
    def is_timed(self) -> bool:
        """Whether latency is among the objectives."""
        return Objective.LATENCY in self.objectives


class RunSettings(Setup):
    """A setup with a name, a seed, and places where its results are kept."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    tracking: Tracking = Tracking()
    seed: Annotated[int, Field(ge=0)] = 0
    output: Annotated[Path, Field(strict=False), AfterValidator(Path.resolve)]

    @property
    def tracking_uri(self) -> str:
        """The store's URI; by default an SQLite file beside the output folder."""
        return self.tracking.uri or f"sqlite:///{self.output.parent / 'mlflow.db'}"

    @property
    def experiment(self) -> str:
        """The store's experiment; by default the job's name."""
        return self.tracking.experiment or self.name


class SearchSettings(RunSettings):
    """Everything that decides a search's result, but for the model and its data."""

    constraints: Constraints = Constraints()
    budget: Budget = Budget()
    seeds: Annotated[tuple[Annotated[Path, Field(strict=False)], ...], Field(strict=False)] = ()
    sampler: Literal["guided", "tpe", "nsga2", "random"] = "guided"
    cache: bool = True
    rivals: Annotated[
        tuple[Annotated[str, AfterValidator(check_rival)], ...] | None, Field(strict=False)
    ] = None

    @property
    def rival_engines(self) -> tuple[str, ...]:
        """Engines on which the float model is timed too.

        Where none are named, those that are installed, but for a search that shall end soon, or
        that times nothing itself.
        """
        if self.rivals is not None:
            return self.rivals
        is_short = self.budget.effort is Effort.QUICK or self.budget.minutes is not None
        if is_short or not self.is_timed or is_estimate(self.backend.name):
            return ()
        return installed_rivals(self.backend.name)

    def on(self, backend: str) -> SearchSettings:
        """The same search on another backend, timed as this one is."""
        timed = self.backend.model_dump(include={"threads", "batch_size", "pairs"})
        section = backend_settings({**backend_from_text(backend), **timed})
        return self.model_copy(update={"backend": section})

    @property
    def is_about_time_alone(self) -> bool:
        """Whether latency is the one cost that is optimized or limited."""
        costs = [goal for goal in self.goals if not goal.is_quality]
        return costs == [Objective.LATENCY] and self.constraints.size_ratio is None


class Job(SearchSettings):
    """A job file: a search, and where its model and its data come from.

    `model` and `data` are None only in the file that a search of a model in memory leaves behind.
    """

    model: ModelSource | None = None
    data: DataSource | None = None
    finetune: Finetuning | None = None
