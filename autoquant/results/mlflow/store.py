"""MLflow: one parent run for a search, a child run for each candidate.

Only `MlflowClient` is used: no fluent API, no active run, nothing global.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoquant.core.measurement import Candidate
from autoquant.core.secrets import masked, masked_line
from autoquant.job.schema import RunSettings
from autoquant.results.findings import Findings, SearchFacts
from autoquant.results.frontier_file import frontier_file
from autoquant.results.mlflow import entities
from autoquant.results.mlflow.connection import (
    open_experiment,
    refusals,
    resolve_uri,
    store_errors,
)
from autoquant.results.mlflow.runs import Child, find_children, find_parent, log_batch
from autoquant.results.mlflow.view import VIEW_TAG, view_state
from autoquant.results.mlflow.winner import log_winner
from autoquant.results.recorders import Tracker, Winner

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_LOGGER = logging.getLogger("autoquant.results")
_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TrackingSettings:
    """Where and under which name a search is tracked.

    Attributes:
        uri: Of the store.
        experiment: Name of the experiment; made if needed.
        tags: The user's, put on the parent run.
    """

    uri: str
    experiment: str
    tags: Mapping[str, str] = field(default_factory=dict)


def tracking_of(run: RunSettings) -> TrackingSettings | None:
    """Give where a search or a fine-tuning is tracked; None where its job wants none."""
    if not run.tracking.enabled:
        return None
    return TrackingSettings(run.tracking_uri, run.experiment, run.tracking.tags)


def open_recorder(
    settings: TrackingSettings,
    facts: SearchFacts,
    job_text: str,
    environment: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
) -> MlflowRecorder:
    """Reach the store, and start the search's parent run or find it again.

    Call it before any expensive work: it fails within seconds where the store cannot be used.

    Args:
        settings: Where to track.
        facts: What the search is; its id finds the runs of a resumed search.
        job_text: The job as YAML, kept as an artifact.
        environment: As `describe_environment` gave it, kept as an artifact.
        clock: Seconds, monotonic.

    Raises:
        TrackingError: The store cannot be reached, is damaged or refuses.
    """
    uri = resolve_uri(settings.uri)
    client, experiment = open_experiment(uri, settings.experiment)
    with refusals(uri):
        parent = find_parent(client, experiment, facts.search_id)
        children = find_children(client, experiment, parent) if parent else {}
        if parent is None:
            tags = entities.search_tags(facts, environment, settings.tags)
            run = client.create_run(experiment, tags=tags, run_name=facts.name)
            parent = str(run.info.run_id)
        view = view_state(str(facts.settings.get("objectives", "")))
        client.set_experiment_tag(experiment, VIEW_TAG, view)
        _describe(client, parent, facts, job_text, environment)
    return MlflowRecorder(client, experiment, parent, children, uri=uri, clock=clock)


class MlflowRecorder(Tracker):
    """Tracks one search. Made by `open_recorder`.

    A store that fails in the middle never stops the search: it is warned of once, tried again
    each minute and at the end, and `finish` says what is missing.

    Attributes:
        uri: Of the store, absolute.
        experiment_id: Of the experiment.
        run_id: Of the parent run.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        run_id: str,
        children: dict[int, Child],
        *,
        uri: str,
        clock: Callable[[], float],
    ) -> None:
        self.uri = uri
        self.experiment_id = experiment_id
        self.run_id = run_id
        self._client = client
        self._children = children
        self._clock = clock
        self._quiet_until = float("-inf")
        self._has_warned = False

    def candidate(self, candidate: Candidate) -> None:
        """Log a candidate as a child run; a later record of the same number updates it."""
        if self._clock() < self._quiet_until or self._has(candidate):
            return
        try:
            self._log(candidate)
        except store_errors() as error:
            self._quiet_until = self._clock() + _RETRY_SECONDS
            if not self._has_warned:
                self._has_warned = True
                _LOGGER.warning(
                    "MLflow refuses candidate %d (%s); the search goes on, and what is missing "
                    "is logged at its end",
                    candidate.number,
                    masked_line(error),
                )

    def frontier(self, findings: Findings) -> None:
        """Tag the frontier's members as they stand, and log the frontier's metrics.

        A store that fails is passed over: `finish` logs it all again.
        """
        if self._clock() < self._quiet_until:
            return
        try:
            self._tag_members({item.number for item in findings.frontier.members})
            text = frontier_file(findings.frontier, findings.facts.stopped).model_dump_json()
            self._client.log_text(self.run_id, text, "frontier.json")
            log_batch(self._client, self.run_id, metrics=entities.findings_metrics(findings))
        except store_errors():
            self._quiet_until = self._clock() + _RETRY_SECONDS

    def finish(
        self,
        findings: Findings,
        *,
        artifacts: Sequence[Path] = (),
        models: Mapping[int, Sequence[Path]] | None = None,
        winner: Winner | None = None,
    ) -> tuple[str, ...]:
        """Log what is still missing, mark the frontier, and end the parent run.

        Args:
            findings: All that the search found; candidates with held-out values update theirs.
            artifacts: Files for the parent run (`sensitivity.csv`, `frontier.json`, the report).
            models: By number of a frontier member, the files of its quantized model.
            winner: The chosen member, to be logged as a model; None: there is none to run.

        Returns:
            Sentences on what the store lacks; empty when all is there.
        """
        self._quiet_until = float("-inf")
        for item in findings.candidates:
            self.candidate(item)
        try:
            self._mark_frontier(findings, models or {})
            self._log_findings(findings, artifacts)
            gaps = () if winner is None else self._log_winner(winner)
            self._client.set_terminated(self.run_id, status="FINISHED")
        except store_errors() as error:
            return (self._missing(findings, f", frontier and report ({masked_line(error)})"),)
        if all(self._has(item) for item in findings.candidates):
            return gaps
        return (self._missing(findings, ""), *gaps)

    def stop(self, reason: str) -> None:
        """Mark the parent run as stopped early; resuming opens it again."""
        try:
            self._client.set_tag(self.run_id, "stopped", masked(reason)[:500])
            self._client.set_terminated(self.run_id, status="KILLED")
        except store_errors():
            _LOGGER.warning("MLflow could not be told that the search stopped")

    def _has(self, candidate: Candidate) -> bool:
        child = self._children.get(candidate.number)
        return child is not None and child.content == entities.content_digest(candidate)

    def _log(self, candidate: Candidate) -> None:
        if candidate.number not in self._children:
            self._children[candidate.number] = self._start_child(candidate)
        child = self._children[candidate.number]
        log_batch(
            self._client,
            child.run_id,
            metrics=entities.candidate_metrics(candidate),
            parameters={} if child.content else entities.candidate_parameters(candidate),
            tags=entities.candidate_tags(candidate),
        )
        if child.has_failed and candidate.failure is None:
            self._client.delete_tag(child.run_id, entities.FAILURE_TAG)
        child.has_failed = candidate.failure is not None
        status = "FAILED" if candidate.failure else "FINISHED"
        self._client.set_terminated(child.run_id, status=status)
        child.content = entities.content_digest(candidate)

    def _start_child(self, candidate: Candidate) -> Child:
        started = time.time() - sum(candidate.seconds.values())
        run = self._client.create_run(
            self.experiment_id,
            start_time=int(started * 1000),
            tags=entities.child_tags(self.run_id, candidate),
            run_name=f"#{candidate.number} {candidate.origin}",
        )
        return Child(str(run.info.run_id))

    def _mark_frontier(self, findings: Findings, models: Mapping[int, Sequence[Path]]) -> None:
        members = {item.number: item for item in findings.frontier.members}
        for number, child in self._children.items():
            if number in members:
                text = members[number].plan.file_text()
                self._client.log_text(child.run_id, text, "plan.json")
                for path in models.get(number, ()):
                    self._client.log_artifact(child.run_id, str(path))
        self._tag_members(members)

    def _tag_members(self, members: Collection[int]) -> None:
        for number, child in self._children.items():
            is_member = number in members
            if is_member is not child.is_member:
                tag = str(is_member).lower()
                self._client.set_tag(child.run_id, entities.FRONTIER_TAG, tag)
                child.is_member = is_member

    def _log_findings(self, findings: Findings, artifacts: Sequence[Path]) -> None:
        for path in artifacts:
            self._client.log_artifact(self.run_id, str(path))
        log_batch(
            self._client,
            self.run_id,
            parameters=self._new_parameters(findings),
            metrics=entities.findings_metrics(findings),
            tags=entities.findings_tags(findings),
        )

    def _log_winner(self, winner: Winner) -> tuple[str, ...]:
        """Log the winner as a model; a store or an engine that refuses leaves its files."""
        refused: tuple[type[Exception], ...] = (*store_errors(), ImportError, RuntimeError)
        try:
            model = log_winner(self._client, self.experiment_id, self.run_id, winner)
        except refused as error:
            return (
                f"MLflow takes the winner as no model ({masked_line(error)}); its file is kept",
            )
        if model is not None:
            self._client.set_tag(self.run_id, entities.MODEL_TAG, f"models:/{model}")
        return ()

    def _new_parameters(self, findings: Findings) -> dict[str, str]:
        """Give the settings that became known during the search; MLflow allows no changes."""
        known = self._client.get_run(self.run_id).data.params
        parameters = entities.search_parameters(findings.facts, findings.environment)
        return {name: value for name, value in parameters.items() if name not in known}

    def _missing(self, findings: Findings, rest: str) -> str:
        count = sum(not self._has(item) for item in findings.candidates)
        return (
            f"the MLflow store {masked(self.uri)} lacks {count} of "
            f"{len(findings.candidates)} candidates{rest}; the result folder has everything"
        )


def _describe(
    client: MlflowClient,
    run_id: str,
    facts: SearchFacts,
    job_text: str,
    environment: Mapping[str, Any],
) -> None:
    """Put the job and the environment on the parent run.

    MLflow lets no parameter change: what a resumed search has otherwise goes into tags.
    """
    run = client.get_run(run_id)
    parameters = entities.search_parameters(facts, environment)
    first, tags = run.data.params, run.data.tags
    new = {name: value for name, value in parameters.items() if name not in first}
    changed = {
        entities.RESUMED_PREFIX + name: value
        for name, value in parameters.items()
        if value != tags.get(entities.RESUMED_PREFIX + name, first.get(name, value))
    }
    client.update_run(run_id, status="RUNNING")
    log_batch(client, run_id, parameters=new, tags=changed)
    client.log_text(run_id, job_text, "job.yaml")
    client.log_dict(run_id, dict(environment), "environment.json")
