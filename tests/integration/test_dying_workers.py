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
from tests.integration.test_crashes import members, workers_below

TRIALS = int(os.environ.get("AUTOQUANT_DYING", "60"))
IS_LONG = "AUTOQUANT_DYING" in os.environ
BETWEEN_DEATHS_S = 30.0 if IS_LONG else 0.0
"""On average; each time a worker that is drawn at random, and not before it can have worked."""

BETWEEN_DEATHS = 100 if IS_LONG else 25
"""Lines of the history, at least: a worker that is killed before it works lets nothing go on."""

ENTRY = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(*(part for _ in range(14) for part in (nn.Linear(8, 8), nn.Tanh())))

def batches(count, seed):
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        targets = model()(inputs).argmax(1)
    return list(zip(inputs.split(32), targets.split(32)))
"""


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
    write_job: WriteJob, tmp_path: Path
) -> None:
    same = {
        "space": {"schemes": ["int8", "bf16", "fp32"]},
        "sampler": "random",
        "budget": {"trials": TRIALS, "round_size": 50 if IS_LONG else 20, "effort": "thorough"},
    }
    quiet = write_job("quiet", **same)
    wounded = write_job("wounded", **same, execution={"kind": "ray", "workers": 2, "retries": 5})
    (tmp_path / "entry.py").write_text(ENTRY)
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
