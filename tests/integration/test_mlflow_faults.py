"""A store that is made twice at once, and one whose disk is full."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.integration.bad_inputs.disks import disk_of, fill
from tests.integration.bad_inputs.stage import write_job
from tests.integration.conftest import ROOT, RunCli, command

pytestmark = pytest.mark.slow


def test_two_first_searches_share_a_new_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    changes = {"tracking": {"enabled": True, "uri": uri}, "budget": {"trials": 1}}
    jobs = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        jobs.append(write_job(tmp_path / name, changes))
    running = [
        subprocess.Popen(
            command("search", str(job)),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for job in jobs
    ]
    errors = [process.communicate(timeout=400)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert not [text for text in errors if "Traceback" in text]
    client = MlflowClient(uri)
    named = [item for item in client.search_experiments() if item.name != "Default"]
    runs = client.search_runs([item.experiment_id for item in named])
    assert len([run for run in runs if "autoquant.search_id" in run.data.tags]) == 2


def test_a_full_disk_under_the_store_is_said_in_a_sentence(tmp_path: Path, run_cli: RunCli) -> None:
    store = tmp_path / "mlflow.db"
    MlflowClient(f"sqlite:///{store}").search_experiments()
    with disk_of("8m", tmp_path / "disk") as disk:
        uri = f"sqlite:///{shutil.copy(store, disk)}"
        fill(disk / "ballast")
        job = write_job(tmp_path, {"tracking": {"enabled": True, "uri": uri}})
        done = run_cli("search", str(job))
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr + done.stdout
    assert "MLflow" in done.stderr
