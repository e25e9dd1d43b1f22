"""A fine-tuning in MLflow: one run, its checks as metrics by step."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from autoquant.core.findings.finetuning import Check, Recovery, Standing
from autoquant.core.measurement import Kind, Measurement
from autoquant.errors import TrackingError
from autoquant.results.mlflow.finetunings import MlflowFinetuneTracker, open_finetune_tracker
from autoquant.results.mlflow.store import TrackingSettings

CHECKS = [
    Check(0, 0.0, None, 2.0, 0.5),
    Check(5, 0.1, 1.5, 1.0, 0.75),
    Check(9, 0.01, 0.9, 0.8, 0.8),
]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def start(uri: str, identity: str, *, resumes: bool = False) -> MlflowFinetuneTracker:
    settings = TrackingSettings(uri=uri, experiment="digits", tags={"team": "vision"})
    return open_finetune_tracker(
        settings, "finetune digits", identity, {"optimizer": "sgd"}, resumes=resumes
    )


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    found = MlflowClient(uri).get_metric_history(run_id, name)
    return sorted((item.step, item.value) for item in found)


def test_checks_are_metrics_by_step_and_none_is_logged_twice_after_a_resume(uri: str) -> None:
    first = start(uri, "one")
    first.checks(CHECKS[:2])
    first.stop("interrupted")
    second = start(uri, "one", resumes=True)
    second.checks(CHECKS)
    assert second.run_id == first.run_id
    assert history(uri, first.run_id, "loss") == [(0, 2.0), (5, 1.0), (9, 0.8)]
    assert history(uri, first.run_id, "accuracy") == [(0, 0.5), (5, 0.75), (9, 0.8)]
    assert history(uri, first.run_id, "training_loss") == [(5, 1.5), (9, 0.9)]


def test_the_same_fine_tuning_started_anew_is_a_run_of_its_own(uri: str) -> None:
    assert start(uri, "two").run_id != start(uri, "two").run_id


def test_what_was_found_ends_the_run(uri: str, tmp_path: Path) -> None:
    tracker = start(uri, "three")
    score = Measurement(0.9, Kind.MEASURED, stderr=0.01, samples=100)
    standing = Standing(score, score)
    artifact = tmp_path / "finetune.json"
    artifact.write_text("{}")
    found = Recovery("heldout", score, standing, standing, standing, standing, score, score, score)
    tracker.finish([found], [artifact])
    run = MlflowClient(uri).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["heldout_accuracy_gain"] == 0.9
    assert run.data.metrics["heldout_accuracy_gain_stderr"] == 0.01
    assert run.data.params == {"optimizer": "sgd"}
    assert run.data.tags["team"] == "vision"


def test_a_store_that_cannot_be_used_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(TrackingError, match="MLflow store"):
        start(f"sqlite:///{tmp_path}/mlflow.db", "four")
