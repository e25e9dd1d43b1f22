from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoquant.errors import TrackingError
from autoquant.results.mlflow.connection import open_experiment
from autoquant.results.mlflow.store import TrackingSettings, open_recorder
from autoquant.results.mlflow.ui import experiment_pages, start_ui, ui_command
from autoquant.results.mlflow.view import Pages
from tests.unit.results.synthetic import FACTS


def test_the_pages_of_a_job_are_those_of_its_last_search(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings = TrackingSettings(uri, "digits")
    open_recorder(settings, replace(FACTS, search_id="first"), "", {})
    last = open_recorder(settings, replace(FACTS, search_id="last"), "", {})
    pages = experiment_pages("http://127.0.0.1:5000", uri, "digits")
    place = "http://127.0.0.1:5000/#/experiments/1/runs"
    assert pages.runs == f"{place}?workflowType=machine_learning&viewStateShareKey=autoquant"
    assert pages.charts == f"{pages.runs}&compareRunsMode=CHART"
    assert pages.report == f"{place}/{last.run_id}/artifacts/report.html"


def test_an_experiment_without_a_search_is_linked_in_the_view_for_training(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client, experiment = open_experiment(uri, "digits")
    client.create_run(experiment)
    pages = experiment_pages("http://127.0.0.1:5000", uri, "digits")
    place = f"http://127.0.0.1:5000/#/experiments/{experiment}/runs"
    assert pages == Pages(f"{place}?workflowType=machine_learning")
    other = experiment_pages("http://127.0.0.1:5000", uri, "other")
    assert other == Pages("http://127.0.0.1:5000")


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"no MLflow store at .*mlflow\.db"):
        start_ui(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_its_own_ui() -> None:
    running = start_ui("http://mlflow.example:5000")
    assert (running.url, running.process) == ("http://mlflow.example:5000", None)


@pytest.mark.slow
def test_a_ui_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database" * 100)
    with pytest.raises(TrackingError, match="does not start"):
        start_ui(f"sqlite:///{tmp_path}/mlflow.db")


def test_the_ui_listens_on_loopback_only() -> None:
    command = ui_command("mlflow", 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
