"""A long search whose workers die again and again is the search that nobody disturbed.

`AUTOQUANT_DYING=10000 pytest tests/integration/test_dying_workers.py` makes it as many trials, with
two deaths a minute.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autoquant.cli import main
from autoquant.core.measurement import Candidate
from autoquant.results.history import read_history
from tests.integration.conftest import ROOT, WriteJob, command
from tests.integration.test_crashes import members

TRIALS = int(os.environ.get("AUTOQUANT_DYING", "45"))
IS_LONG = "AUTOQUANT_DYING" in os.environ
BETWEEN_DEATHS_S = 30.0 if IS_LONG else 0.0
"""On average; each time a worker that is drawn at random, and not before it can have worked."""

BETWEEN_DEATHS = 100 if IS_LONG else 25
"""Lines of the history, at least: a worker that is killed before it works lets nothing go on."""


def search_among_deaths(job: Path) -> int:
    """Search while workers are killed; gives how many were."""
    said, folder = job.with_suffix(".log"), job.with_suffix("")
    with said.open("w") as log:
        process = subprocess.Popen(command("search", str(job)), cwd=ROOT, stderr=log)
        draw, deaths, next_death, next_count = random.Random(0), 0, time.monotonic(), 1
        while process.poll() is None:
            time.sleep(0.2)
            workers = workers_below(process.pid)
            if not workers or time.monotonic() < next_death:
                continue
            if (count := recorded(folder)) < next_count:
                continue
            os.kill(draw.choice(workers), signal.SIGKILL)
            deaths, next_count = deaths + 1, count + BETWEEN_DEATHS
            next_death = time.monotonic() + draw.uniform(0.5, 1.5) * BETWEEN_DEATHS_S
    assert process.returncode == 0, said.read_text()[-3000:]
    return deaths


def recorded(folder: Path) -> int:
    """Lines of the history: quick to count however long it is."""
    path = folder / "history.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def found_in(folder: Path) -> dict[int, Candidate]:
    return {item.number: item for item in read_history(folder / "history.jsonl")}


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600 if IS_LONG else 1200)
def test_a_search_whose_workers_die_all_the_time_equals_an_undisturbed_one(
    write_quick_job: WriteJob, tmp_path: Path
) -> None:
    same = {
        "space": {"schemes": ["int8", "bf16", "fp32"]},
        "budget": {"trials": TRIALS, "round_size": 50 if IS_LONG else 20, "effort": "thorough"},
    }
    quiet = write_quick_job("quiet", **same)
    wounded = write_quick_job(
        "wounded", **same, execution={"kind": "ray", "workers": 2, "retries": 5}
    )
    assert main(["search", str(quiet)]) == 0
    deaths = search_among_deaths(wounded)
    assert deaths >= 2
    expected, found = found_in(tmp_path / "quiet"), found_in(tmp_path / "wounded")
    assert len(expected) == TRIALS
    assert found.keys() == expected.keys()
    for number, candidate in found.items():
        assert candidate.digest == expected[number].digest
        assert candidate.failure is None
        assert candidate.value("sqnr_db") == pytest.approx(expected[number].value("sqnr_db"))
    assert [digest for digest, _ in members(tmp_path / "wounded")] == [
        digest for digest, _ in members(tmp_path / "quiet")
    ]
    print(f"{TRIALS} trials, {deaths} deaths")


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
