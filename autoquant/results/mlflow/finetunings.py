"""Fine-tunings in MLflow: one run each, its checks as metrics by step."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from autoquant.core.findings.finetuning import Check, Recovery
from autoquant.core.measurement import Measurement
from autoquant.core.secrets import masked, masked_line
from autoquant.results.mlflow.connection import (
    open_experiment,
    refusals,
    resolve_uri,
    store_errors,
)
from autoquant.results.mlflow.entities import measurement_metrics
from autoquant.results.mlflow.runs import log_batch
from autoquant.results.mlflow.store import TrackingSettings

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FINETUNE_TAG = "autoquant.finetune_id"

_LOGGER = logging.getLogger("autoquant.results")


class FinetuneTracker:
    """Keeps the checks of a training as they come, and what it found at its end.

    By itself it keeps nothing, for jobs with tracking disabled.
    """

    def checks(self, checks: Sequence[Check]) -> None:
        """Keep those that are not kept yet."""

    def finish(self, recoveries: Sequence[Recovery], artifacts: Sequence[Path]) -> None:
        """Keep what was found."""

    def stop(self, reason: str) -> None:
        """Say that the training ended early; it may be resumed."""


def open_finetune_tracker(
    settings: TrackingSettings,
    name: str,
    identity: str,
    parameters: Mapping[str, str],
    *,
    resumes: bool,
) -> MlflowFinetuneTracker:
    """Reach the store, and start the run of a fine-tuning or find the latest of the same.

    Raises:
        TrackingError: The store cannot be reached, is damaged or refuses.
    """
    uri = resolve_uri(settings.uri)
    client, experiment = open_experiment(uri, settings.experiment)
    with refusals(uri):
        run_id = _find(client, experiment, identity) if resumes else None
        if run_id is None:
            tags = {
                **{key: masked(value) for key, value in settings.tags.items()},
                FINETUNE_TAG: identity,
            }
            run_id = str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)
            log_batch(client, run_id, parameters=parameters)
        known = {item.step for item in client.get_metric_history(run_id, "loss")}
    return MlflowFinetuneTracker(client, run_id, known)


def _find(client: MlflowClient, experiment: str, identity: str) -> str | None:
    """The latest run of a fine-tuning, opened again."""
    query = f"tags.`{FINETUNE_TAG}` = '{identity}'"
    found = client.search_runs([experiment], query, max_results=1)
    if not found:
        return None
    run_id = str(found[0].info.run_id)
    client.update_run(run_id, status="RUNNING")
    return run_id


@dataclass(slots=True)
class MlflowFinetuneTracker(FinetuneTracker):
    """Tracks one fine-tuning. Made by `open_finetune_tracker`.

    A store that fails in the middle never stops the training: it is warned of once.

    Attributes:
        client: Of the store.
        run_id: Of the run.
        known: Steps whose checks are logged.
    """

    client: MlflowClient
    run_id: str
    known: set[int] = field(default_factory=set)
    _has_warned: bool = False

    def checks(self, checks: Sequence[Check]) -> None:
        """Log the checks that the run lacks."""
        for check in checks:
            if check.step in self.known:
                continue
            try:
                self._log(check)
            except store_errors() as error:
                self._warn(error)
                return
            self.known.add(check.step)

    def finish(self, recoveries: Sequence[Recovery], artifacts: Sequence[Path]) -> None:
        """Log what was found, and end the run."""
        try:
            for recovery in recoveries:
                metrics = measurement_metrics(_measurements(recovery), f"{recovery.data}_")
                log_batch(self.client, self.run_id, metrics=metrics)
            for path in artifacts:
                self.client.log_artifact(self.run_id, str(path))
            self.client.set_terminated(self.run_id, status="FINISHED")
        except store_errors() as error:
            self._warn(error)

    def stop(self, reason: str) -> None:
        """Mark the run as stopped early; resuming opens it again."""
        try:
            self.client.set_tag(self.run_id, "stopped", reason[:500])
            self.client.set_terminated(self.run_id, status="KILLED")
        except store_errors() as error:
            self._warn(error)

    def _log(self, check: Check) -> None:
        from mlflow.entities import Metric

        values = {
            "loss": check.loss,
            "accuracy": check.metric,
            "learning_rate": check.learning_rate,
            **({} if check.training_loss is None else {"training_loss": check.training_loss}),
        }
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, check.step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            _LOGGER.warning(
                "MLflow refuses (%s); the training goes on, and its folder has everything",
                masked_line(error),
            )


def _measurements(recovery: Recovery) -> dict[str, Measurement]:
    return {
        "accuracy_float": recovery.float_score,
        "accuracy_before": recovery.before.score,
        "accuracy_after": recovery.after.score,
        "accuracy_fake_quantized": recovery.emulated.score,
        "accuracy_drop_before": recovery.before.drop,
        "accuracy_drop_after": recovery.after.drop,
        "accuracy_gain": recovery.gain,
        "engine_gap": recovery.gap,
        "engine_gap_sqnr_db": recovery.gap_sqnr_db,
    }
