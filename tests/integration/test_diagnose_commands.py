"""`autoquant badcases` and `autoquant diagnose`, as a user runs them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from autoquant.cli import main
from tests.integration.conftest import WriteJob

FAULTY = """
from tests.seeded_faults import outlier_channels, outlier_sample
import torch

fault = FAULT()

def model():
    return fault.model

def calibration():
    return fault.calibration

def evaluation():
    return fault.evaluation, torch.zeros(len(fault.evaluation), dtype=torch.long)
"""


@pytest.fixture
def faulty_job(write_job: WriteJob, tmp_path: Path) -> WriteJob:
    def write(fault: str) -> Path:
        (tmp_path / "faulty.py").write_text(FAULTY.replace("FAULT()", f"{fault}()"))
        return write_job(
            fault,
            model={"entry": "faulty.py:model"},
            data={
                "calibration": "faulty.py:calibration",
                "evaluation": "faulty.py:evaluation",
                "metric": "accuracy",
            },
            space={"schemes": ["int8", "bf16", "fp32"]},
        )

    return write


def next_of(printed: str) -> list[str]:
    """The words of the command that was printed last, without `autoquant`."""
    line = [line for line in printed.splitlines() if line.startswith("next: ")][-1]
    return shlex.split(line.removeprefix("next: autoquant "))


def test_each_command_prints_the_next_one_with_the_overrides_and_it_works(
    faulty_job: WriteJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """check -> badcases -> compare -> diagnose -> badcases of its plan."""
    bad, mended = tmp_path / "bad cases.json", str(tmp_path / "mended.json")
    more = {"badcases": ["-o", str(bad)], "diagnose": ["--write-plan", mended]}
    given = ["--set", "calibration.observer=minmax", "--backend.engine", "onednn"]
    words, seen = ["check", str(faulty_job("outlier_channels")), *given], []
    for _ in range(5):
        assert main([*words, *more.get(words[0], [])]) == 0
        seen.append(words[0])
        words = next_of(capsys.readouterr().out)
        assert words[3:6:2] == ["calibration.observer=minmax", "backend.engine=onednn"]
        if seen[-2:] == ["check", "badcases"]:
            assert words[-2:] == ["--indices", str(bad)]
    assert seen == ["check", "badcases", "compare", "diagnose", "badcases"]
    assert mended in words


def test_badcases_prints_three_tables_and_keeps_the_samples(
    faulty_job: WriteJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, output, plot = faulty_job("outlier_sample"), tmp_path / "bad.json", tmp_path / "bad.html"
    arguments = ["--top", "3", "--output", str(output), "--plot", str(plot)]
    assert main(["badcases", str(job), "--plan", "int8", *arguments]) == 0
    printed = capsys.readouterr().out
    for title in ("worst sample of each output", "its value", "worst over outputs"):
        assert title in printed
    document = json.loads(output.read_text())
    assert document["indices"][0] == 37
    assert document["samples"] == 96
    assert len(document["worst"]["output"]["sqnr"]) == 3
    assert plot.stat().st_size > 100_000


def test_badcases_of_data_that_the_job_lacks_are_refused(
    faulty_job: WriteJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job = faulty_job("outlier_sample")
    assert main(["badcases", str(job), "--data", "heldout"]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "--data heldout: the job has no such data" in printed
    assert "it has evaluation, calibration" in printed


def test_diagnose_says_why_and_writes_the_plan_that_mends_it(
    faulty_job: WriteJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, plan = faulty_job("outlier_channels"), tmp_path / "mended.json"
    plot = tmp_path / "diagnosis.html"
    words = ["--write-plan", str(plan), "--plot", str(plot)]
    assert main(["diagnose", str(job), "--plan", "int8", *words]) == 0
    assert "with this cause alone mended" in plot.read_text()
    printed = capsys.readouterr().out
    assert "data-insensitive error" in printed
    assert "1. outlier channels: stem" in printed
    assert "next step: raise every op" in printed
    assert main(["diagnose", str(job), "--plan", str(plan)]) == 0
    assert "healthy" in capsys.readouterr().out


def test_diagnose_as_json_names_cause_samples_and_step(
    faulty_job: WriteJob, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", str(faulty_job("outlier_sample")), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["pattern"], document["indices"]) == ("data-sensitive", [37])
    assert document["findings"][0]["cause"] == "outlier sample"
    assert document["next_step"].startswith("look at sample 37")
