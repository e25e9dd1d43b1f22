"""kill -9 of a search: nothing finished is lost."""

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
from tests.integration.conftest import CHAIN, ROOT, WriteJob, command, job_writer

pytestmark = pytest.mark.slow
SEARCH = {"sampler": "random", "budget": {"trials": 40, "round_size": 6}}


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
    job = job_writer(tmp_path_factory.mktemp("whole"), CHAIN, **SEARCH)("whole")
    assert main(["search", str(job)]) == 0
    return job.parent / "whole"


def test_a_killed_search_resumes_to_the_frontier_of_an_uninterrupted_one(
    write_quick_job: WriteJob, whole: Path, tmp_path: Path
) -> None:
    job = write_quick_job("killed", **SEARCH)
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
    assert 9 <= len(finished) < 40
    assert main(["search", str(job), "--resume"]) == 0
    after = {item.number: item for item in read_history(tmp_path / "killed" / "history.jsonl")}
    for number, candidate in finished.items():
        assert after[number].plan == candidate.plan
        assert after[number].measurements["sqnr_db"] == candidate.measurements["sqnr_db"]
        assert after[number].seconds["build"] == candidate.seconds["build"], "measured again"
    assert members(tmp_path / "killed") == members(whole)
    assert len(after) == len(read_history(whole / "history.jsonl"))
