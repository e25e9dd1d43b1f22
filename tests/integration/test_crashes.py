"""kill -9 of the controller and of a worker: nothing finished is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autoquant.cli import main
from autoquant.results.history import read_history
from tests.integration.conftest import ROOT, WriteJob, command, job_writer

pytestmark = pytest.mark.slow


def wait_for(condition, seconds: float = 600.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def measured(folder: Path) -> int:
    return len(read_history(folder / "history.jsonl"))


def members(folder: Path) -> list[tuple[str, float]]:
    frontier = json.loads((folder / "frontier.json").read_text())
    return [(item["digest"], item["values"]["sqnr_db"]["value"]) for item in frontier["members"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result folder of the job that nobody disturbs."""
    job = job_writer(tmp_path_factory.mktemp("whole"))("whole")
    assert main(["search", str(job)]) == 0
    return job.parent / "whole"


def test_a_killed_search_resumes_to_the_frontier_of_an_uninterrupted_one(
    write_job: WriteJob, whole: Path, tmp_path: Path
) -> None:
    job = write_job("killed")
    process = subprocess.Popen(
        command("search", str(job)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: measured(tmp_path / "killed") >= 9 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {item.number: item for item in read_history(tmp_path / "killed" / "history.jsonl")}
    assert 9 <= len(finished) < 24
    assert main(["search", str(job), "--resume"]) == 0
    after = {item.number: item for item in read_history(tmp_path / "killed" / "history.jsonl")}
    for number, candidate in finished.items():
        assert after[number].plan == candidate.plan
        assert after[number].measurements["sqnr_db"] == candidate.measurements["sqnr_db"]
        assert after[number].seconds["build"] == candidate.seconds["build"], "measured again"
    assert members(tmp_path / "killed") == members(whole)
    assert len(after) == len(read_history(whole / "history.jsonl"))


def test_a_killed_worker_costs_no_candidate(
    write_job: WriteJob, whole: Path, tmp_path: Path
) -> None:
    job = write_job("wounded", execution={"kind": "ray", "workers": 2})
    process = subprocess.Popen(
        command("search", str(job)), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    workers: list[int] = []  # there are none while the uniform plans are measured
    while not workers and process.poll() is None:
        workers = workers_below(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    found = {c.digest: c for c in read_history(tmp_path / "wounded" / "history.jsonl")}
    expected = {c.digest: c for c in read_history(whole / "history.jsonl")}
    assert found.keys() == expected.keys()
    assert all(candidate.failure is None for candidate in found.values())
    for digest, candidate in found.items():
        assert candidate.value("accuracy") == expected[digest].value("accuracy")
        assert candidate.value("sqnr_db") == pytest.approx(expected[digest].value("sqnr_db"))


def workers_below(controller: int) -> list[int]:
    """Processes of Ray actors of class Worker, below a controller."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = status.read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if title.startswith(b"ray::Worker") and controller in ancestors(int(status.parent.name)):
            found.append(int(status.parent.name))
    return found


def ancestors(process: int) -> list[int]:
    found = []
    while process > 1:
        status = Path(f"/proc/{process}/stat").read_text()
        process = int(status.rpartition(")")[2].split()[1])
        found.append(process)
    return found
