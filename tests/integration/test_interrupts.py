"""Signals and lost workers: the frontier, the report and MLflow's end state are written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import autoquant as aq
from autoquant.core.history import StopReason
from autoquant.results.history import read_history
from tests.integration.conftest import ROOT, WriteJob, command

pytestmark = pytest.mark.slow


def begin(job: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("search", str(job)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen[str]) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 900  # as long as the machine is busy
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def measured(folder: Path) -> int:
    return len(read_history(folder / "history.jsonl"))


def state_in_mlflow(folder: Path) -> str:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    return next(str(r.info.status) for r in runs if "autoquant.search_id" in r.data.tags)


def tracked(folder: Path) -> dict[str, object]:
    """Have a search tracked in a store whose tables are there: they are made faster here."""
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return {"enabled": True}


def slowed(job: Path, condition: str) -> Path:
    """Have a metric take a minute where a condition holds, once the file `slowly` is there."""
    source = f"""
import time
from pathlib import Path
from autoquant.metrics import accuracy

def slow(outputs, targets):
    if {condition} and Path({str(job.parent / "slowly")!r}).exists():
        time.sleep(60)
    return accuracy(outputs, targets)
"""
    (job.parent / "slow.py").write_text(source)
    job.write_text(job.read_text().replace("metric: accuracy", "metric: slow.py:slow"))
    return job


def assert_whole(folder: Path) -> None:
    """The frontier, the plans and the report are there, and load."""
    result = aq.load_result(folder)
    assert len(result.frontier) > 0
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("number", "times"),
    [(signal.SIGTERM, 1), (signal.SIGINT, 2)],
    ids=["SIGTERM", "Ctrl-C-twice"],
)
def test_a_signal_ends_a_search_with_all_that_was_found(
    write_quick_job: WriteJob, tmp_path: Path, number: signal.Signals, times: int
) -> None:
    budget = {"trials": 4000, "round_size": 6}
    process = begin(write_quick_job("cut", budget=budget, tracking=tracked(tmp_path)))
    wait_for(lambda: measured(tmp_path / "cut") >= 8, process)
    process.send_signal(number)
    if times == 2:
        time.sleep(0.2)
        process.send_signal(number)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "--resume" in printed
    assert "Traceback" not in errors
    assert_whole(tmp_path / "cut")
    assert aq.load_result(tmp_path / "cut").stopped is StopReason.INTERRUPTED
    assert state_in_mlflow(tmp_path) == "KILLED"


def test_ctrl_c_once_more_while_python_ends_changes_nothing(
    write_quick_job: WriteJob, tmp_path: Path
) -> None:
    process = begin(write_quick_job("cut", budget={"trials": 4000, "round_size": 6}))
    wait_for(lambda: measured(tmp_path / "cut") >= 8, process)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stderr is not None
    while not process.stdout.readline().startswith("report: "):
        assert process.poll() is None, process.stderr.read()
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode == 130
    assert "Traceback" not in process.stderr.read()


def test_a_signal_while_held_out_data_are_scored_keeps_the_frontier(
    write_quick_job: WriteJob, tmp_path: Path
) -> None:
    job = write_quick_job("cut", budget={"trials": 6, "round_size": 6})
    job.write_text(job.read_text().replace("count: 64", "count: 40"))
    process = begin(slowed(job, "len(targets) == 8"))  # the last batch of held-out data alone
    wait_for(lambda: measured(tmp_path / "cut") >= 1, process)
    (tmp_path / "slowly").touch()
    assert process.stderr is not None
    assert any("scoring the frontier" in line for line in process.stderr)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert_whole(tmp_path / "cut")


def child_of(process: subprocess.Popen[str], name: str) -> int:
    """The process of a name that another one started."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    (found,) = [row[0] for row in rows if row[1] == str(process.pid) and row[2] == name]
    return int(found)


def test_a_search_whose_ray_dies_ends_with_what_was_found(
    write_quick_job: WriteJob, tmp_path: Path
) -> None:
    job = write_quick_job(
        "cut",
        budget={"trials": 4000, "round_size": 6},
        execution={"kind": "ray", "workers": 1},
        tracking=tracked(tmp_path),
    )
    process = begin(job)
    wait_for(lambda: measured(tmp_path / "cut") >= 10, process)
    os.kill(child_of(process, "raylet"), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert "error: Ray is gone" in errors
    assert "--resume" in errors
    assert_whole(tmp_path / "cut")
    assert aq.load_result(tmp_path / "cut").stopped is StopReason.FAILED
    assert state_in_mlflow(tmp_path) == "KILLED"


_LOSES_RAY = """
import os, signal, sys, time
import ray
from autoquant.core.evaluation import Outcome, Phase, Task
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import ExecutionError
from autoquant.job import Execution
from autoquant.searching.measuring.workers.start import start_executor

class Slow:
    def __call__(self):
        return self
    def run(self, phase, task):
        time.sleep(0.5)
        return Outcome(task.number, {})

executor = start_executor(Execution(workers=2), Slow())
tasks = [Task(number, Plan.of({"a": Scheme.INT8})) for number in range(400)]
try:
    for count, outcome in enumerate(executor.run(Phase.QUALITY, tasks)):
        if count == 3:
            for part in ray._private.worker._global_node.all_processes[sys.argv[1]]:
                os.kill(part.process.pid, signal.SIGKILL)
except ExecutionError as error:
    print(error.message)
executor.close()
time.sleep(40)  # twice as long as Ray lets a process live that lost it
print("alive")
"""


def test_when_ray_dies_it_is_said_and_the_process_lives_to_write_what_was_found() -> None:
    parts = ("raylet", "gcs_server")
    ran = [
        subprocess.Popen(
            [sys.executable, "-c", _LOSES_RAY, part],
            cwd=ROOT,
            env={**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "20"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in parts
    ]
    for part, process in zip(parts, ran, strict=True):
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, (part, errors)
        assert "\nRay is gone" in "\n" + printed  # after what Ray itself may print
        assert printed.splitlines()[-1] == "alive"
