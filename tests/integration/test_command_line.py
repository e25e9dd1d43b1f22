"""The commands, as a user runs them."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from typer.main import get_command

import autoquant
from autoquant.cli import main
from autoquant.cli.app import app
from autoquant.results.history import read_history
from tests.integration.conftest import ROOT, RunCli, WriteJob, command, job_writer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search on real kernels, with latency."""
    folder = tmp_path_factory.mktemp("cli")
    job = job_writer(folder)(
        "timed",
        space={"schemes": ["int8", "fp32"]},
        objectives=["output_error", "latency"],
        budget={"trials": 6, "round_size": 3},
        tracking={"enabled": True},
    )
    assert main(["search", str(job)]) == 0
    return folder


def test_a_search_leaves_everything_that_its_folder_promises(finished: Path) -> None:
    folder = finished / "timed"
    names = {"frontier.json", "history.jsonl", "sensitivity.csv", "report.html", "job.yaml"}
    assert names <= {path.name for path in folder.iterdir()}
    frontier = json.loads((folder / "frontier.json").read_text())
    values = frontier["members"][0]["values"]
    assert values["speedup"]["kind"] == "measured"
    assert values["speedup"]["stderr"] is not None
    assert frontier["members"][0]["values"]["speedup"]["value"] > 0
    assert (folder / "plans" / f"{frontier['members'][0]['number']}.ts").exists()


def test_report_prints_the_frontier_again(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "timed" / "report.html").unlink()
    assert main(["report", str(finished / "timed")]) == 0
    assert "speedup" in capsys.readouterr().out
    page = (finished / "timed" / "report.html").read_text()
    assert "result.candidates" in page


def test_a_terminal_without_a_character_is_shown_another(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["report", str(finished / "timed")]) == 0
    sys.stdout.flush()
    assert b"? " in written.getvalue()


def test_export_writes_a_file_that_torch_loads(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "[bold]model.ts"
    assert main(["export", str(finished / "timed"), "--output", str(path), "--number", "1"]) == 0
    assert re.match(rf"{re.escape(str(path))}: candidate 1, \d+ int8.*\n", capsys.readouterr().out)
    monkeypatch.setattr(torch.backends.quantized, "engine", "fbgemm")
    assert torch.jit.load(str(path))(torch.ones(2, 3, 16, 16)).shape == (2, 10)


def test_sensitivity_prints_a_ranking_and_writes_it(
    write_job: WriteJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "table.csv"
    job = write_job("ranked")
    assert main(["sensitivity", str(job), "--output", str(output), "--top", "3"]) == 0
    assert "int8: SQNR in dB with one knob alone" in capsys.readouterr().out
    rows = list(csv.DictReader(line for line in output.open() if not line.startswith("#")))
    assert {row["part"] for row in rows} == {"both", "weight", "activation"}


def test_backends_tells_native_from_emulated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    shown = capsys.readouterr().out
    assert "torch / fbgemm" in shown
    assert "native" in shown
    assert "conv1d, conv2d" in shown
    assert "emulated" in shown


def test_a_dry_run_prints_sites_and_evaluates_nothing(
    write_job: WriteJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(write_job("dry")), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "b1:add:0" in shown
    assert "plans" in shown
    assert "minutes (estimated)" in shown
    assert not (tmp_path / "dry").exists()


def test_overrides_reach_the_job_and_are_kept_with_the_result(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job("seeds", space={"schemes": ["int8", "fp32"]})
    forms = ["--set", "budget.trials=0", "--budget.minutes", "9", "--sensitivity.samples=17"]
    assert main(["search", str(job), *forms]) == 0
    found = read_history(tmp_path / "seeds" / "history.jsonl")
    assert {item.origin.partition(":")[0] for item in found} == {"seed"}
    kept = (tmp_path / "seeds" / "job.yaml").read_text()
    assert all(line in kept for line in ("trials: 0", "minutes: 9", "samples: 17"))


def test_a_resumed_search_shows_the_settings_that_it_was_resumed_with(
    write_job: WriteJob, tmp_path: Path
) -> None:
    schemes = {"schemes": ["int8", "fp32"]}
    job = write_job("again", space=schemes, budget={"trials": 0, "minutes": 9})
    assert main(["search", str(job)]) == 0
    first = json.loads((tmp_path / "again" / "search.json").read_text())
    job = write_job("again", space=schemes, budget={"trials": 1})
    assert main(["search", str(job), "--resume", "--set", "name=renamed"]) == 0
    second = json.loads((tmp_path / "again" / "search.json").read_text())
    assert (second["name"], second["settings"]["budget.trials"]) == ("renamed", 1)
    assert "budget.minutes" not in second["settings"]
    for kept in ("engine", "reduce_range", "sites", "knobs", "leaf_modules"):
        assert second["settings"][kept] == first["settings"][kept]
    assert second["search_id"] == first["search_id"]


def test_ctrl_c_before_the_first_candidate_says_how_to_go_on(
    write_job: WriteJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job("early")
    (tmp_path / "entry.py").write_text(
        "def model():\n    raise KeyboardInterrupt\n\ndef batches():\n    ...\n"
    )
    assert main(["search", str(job)]) == 130
    assert "interrupted; what was finished is kept" in capsys.readouterr().err


def test_confirm_measures_the_frontier_on_another_engine(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frontier = json.loads((finished / "timed" / "frontier.json").read_text())
    number = frontier["members"][0]["number"]
    before = (finished / "timed" / "history.jsonl").read_bytes()
    assert main(["confirm", str(finished / "timed"), "-b", "onednn", "--number", str(number)]) == 0
    shown = capsys.readouterr().out
    assert "torch/onednn; speed-ups are over fp32" in shown
    rows = [line for line in shown.splitlines() if line.strip().startswith(f"{number} ")]
    assert len(rows) == 1
    assert "int8" in rows[0] or "fp32" in rows[0]
    assert (finished / "timed" / "history.jsonl").read_bytes() == before


def test_confirm_names_a_candidate_that_is_not_there(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["confirm", str(finished / "timed"), "-b", "onednn", "--number", "999"]) == 2
    assert "no candidate 999" in capsys.readouterr().err


def test_backends_lists_what_of_a_plan_cannot_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished / "timed"
    wanted = ["backends", "--job", str(folder / "job.yaml"), "--plan", str(folder)]
    assert main(wanted) == 0
    assert "runs all of it" in capsys.readouterr().out
    assert main(["backends", "--plan", str(folder)]) == 2
    assert "--plan and --job belong together" in capsys.readouterr().err


@pytest.mark.slow
def test_ui_serves_a_store_beside_a_port_that_is_taken_and_ends_with_its_command(
    finished: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = subprocess.Popen(
            command("ui", str(finished / "timed"), "--port", str(port)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
    try:
        assert url.startswith("http://127.0.0.1:")
        assert not url.startswith(f"http://127.0.0.1:{port}/")
        with urllib.request.urlopen(url, timeout=120) as answer:
            assert b"<title>MLflow</title>" in answer.read()
        (server,) = [row[1] for row in processes() if row[0] == process.pid]
        served = [row[3] for row in processes() if row[2] == server]
        assert len(served) > 1, "MLflow serves from children of its own"
        assert not [line for line in served if "mlflow.db" in line]
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 20
    while (
        left := [row for row in processes() if row[2] == server]
    ) and deadline > time.monotonic():
        time.sleep(0.1)
    assert left == []


def processes() -> list[tuple[int, int, int, str]]:
    """Parent, id, group and command line of every process that still runs."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "ppid=,pid=,pgid=,stat=,args="],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split(None, 4) for line in listed.stdout.splitlines()]
    return [
        (int(parent), int(own), int(group), words)
        for parent, own, group, state, words in rows
        if not state.startswith("Z")
    ]


@pytest.mark.parametrize("name", list(get_command(app).commands))
def test_a_misspelt_option_is_answered_with_what_is_close(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--hepl"]) == 2
    error = capsys.readouterr().err
    assert "No such option" in error
    assert "--help" in error
    assert "--help lists" not in error


def test_the_version_is_printed(run_cli: RunCli) -> None:
    found = run_cli("--version")
    assert (found.returncode, found.stdout) == (0, f"autoquant {autoquant.__version__}\n")


def test_without_a_command_the_help_is_shown_and_no_error(run_cli: RunCli) -> None:
    found = run_cli()
    assert found.returncode == 2
    assert "Commands" in found.stdout
    assert "error" not in found.stderr
