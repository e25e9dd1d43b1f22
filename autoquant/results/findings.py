"""Findings: all that a search found, as the tables, plots, the report and MLflow show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoquant.core.costs import CostTable
from autoquant.core.frontier import Frontier
from autoquant.core.history import StopReason
from autoquant.core.json_values import fields_json, from_fields
from autoquant.core.measurement import EAGER_FP32, Candidate
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.sites import Site

Setting = str | int | float | bool | None

WEIGHTS = "weights"
"""Among a search's settings: the digest of the model's weights."""


@dataclass(frozen=True, slots=True)
class SearchFacts:
    """What a search was: plain values, kept as `search.json`.

    Attributes:
        search_id: Unique; a resumed search keeps it.
        name: The job's name.
        metric: Name of the user's metric.
        target: Where the plans run, in words (`torch onednn, 1 thread, batch 64`).
        rival: What speed-ups are over, in words.
        max_drop: Largest accuracy drop allowed, in the metric's unit; None: no limit.
        settings: What else the report and MLflow list, by dotted key (`budget.trials`).
        notices: What the user should know of the search, one sentence each.
        stopped: Why it ended; None while it runs, and where an older version searched.
    """

    search_id: str
    name: str
    metric: str
    target: str
    rival: str = EAGER_FP32
    max_drop: float | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    stopped: StopReason | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the facts as JSON values."""
        return {**fields_json(self), "stopped": self.stopped and self.stopped.word}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchFacts:
        """Read back what `to_json` gave."""
        word = data.get("stopped")
        stopped = None if word is None else StopReason.of(word)
        return replace(from_fields(cls, {**data, "stopped": None}), stopped=stopped)


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a search found.

    Attributes:
        facts: What the search was.
        job_text: The job as YAML.
        environment: As `describe_environment` gave it.
        sites: All sites, in graph order.
        candidates: Everything that was tried, by number.
        frontier: What is worth choosing between.
        sensitivity: None where it was not measured.
        costs: What each op takes in each scheme; None where it is not known.
    """

    facts: SearchFacts
    job_text: str
    environment: Mapping[str, Any]
    sites: tuple[Site, ...]
    candidates: tuple[Candidate, ...]
    frontier: Frontier
    sensitivity: SensitivityTable | None = None
    costs: CostTable | None = None

    @property
    def failures(self) -> tuple[Candidate, ...]:
        """Candidates that failed."""
        return tuple(item for item in self.candidates if item.failure is not None)

    @property
    def stopped(self) -> tuple[Candidate, ...]:
        """Candidates that were not measured to the end; their numbers compare with no other's."""
        return tuple(item for item in self.candidates if item.stopped is not None)

    @property
    def comparable(self) -> tuple[Candidate, ...]:
        """Candidates with all their numbers, on all samples."""
        return tuple(
            item for item in self.candidates if item.failure is None and item.stopped is None
        )

    @property
    def chosen(self) -> Candidate | None:
        """The fastest (or smallest) member within the allowed drop; None where there is none."""
        return self.frontier.pick(self.facts.max_drop)
