"""`sensitivity` and `tune` as a user runs them, and what a search takes from them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from autoquant.cli import main
from autoquant.core.plan import load_plan
from autoquant.results.history import read_history
from tests.integration.bad_inputs.stage import write_job

WIDE = {"space": {"schemes": ["int8", "int16", "fp16"]}}


def origins(folder: Path) -> dict[str, str]:
    """Origins of a search's candidates, by digest."""
    return {item.digest: item.origin for item in read_history(folder / "history.jsonl")}


def test_a_raised_plan_is_written_and_a_search_tries_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, plan = str(write_job(tmp_path, WIDE)), tmp_path / "plan.json"
    plot = tmp_path / "sensitivity.html"
    words = ["--ratio", "0.34", "-o", str(plan), "--plot", str(plot)]
    assert main(["sensitivity", job, *words]) == 0
    assert "Output noise, % of signal power" in plot.read_text()
    assert "2 int8, 1 int16" in capsys.readouterr().out
    assert load_plan(plan).counts() == {"int8": 2, "int16": 1}
    assert main(["search", job, "--set", f"seeds=[{plan}]", "--budget.trials", "0"]) == 0
    assert origins(tmp_path / "out")[load_plan(plan).digest] == "seed:template-1"


def test_json_holds_the_ranking_of_the_chosen_samples_and_nothing_else_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, chosen = str(write_job(tmp_path, WIDE)), tmp_path / "bad.json"
    chosen.write_text('{"indices": [3, 17]}')
    words = ["--indices", str(chosen), "--json", "--metric-rows", "2"]
    assert main(["sensitivity", job, *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["indices"], document["samples"]) == ([3, 17], 2)
    drops = [row["metric_drop"] for row in document["rows"] if row["metric_drop"]]
    assert [drop["samples"] for drop in drops] == [2, 2]


def test_tune_prints_its_table_and_the_command_that_searches_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {**WIDE, "constraints": {"accuracy_drop": 0.5}}
    job, plot = str(write_job(tmp_path, changes)), tmp_path / "tune.html"
    assert main(["tune", job, "--dry-run"]) == 0
    assert "goal: an accuracy drop of at most 0.5" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(["tune", job, "--plot", str(plot), "--set", "seed=4"]) == 0
    assert "Ops on int16 or fp16, %" in plot.read_text()
    shown = capsys.readouterr().out
    assert "met, chosen" in shown
    assert f"--set 'seeds=[{tmp_path / 'out' / 'tune.json'}]'" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("next: autoquant ")]
    assert "--set seed=4" in line
    assert main(shlex.split(line.removeprefix("next: autoquant "))) == 0
    tuned = load_plan(tmp_path / "out" / "tuned.json")
    assert origins(tmp_path / "out")[tuned.digest].startswith("seed:")


def test_tune_leads_to_check_where_the_goal_is_out_of_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"data": {"metric": "cosine"}, "constraints": {"accuracy_drop": 0.0}}
    job = str(write_job(tmp_path, {**WIDE, **changes}))
    assert main(["tune", job]) == 0
    shown = capsys.readouterr().out
    assert "The goal is out of reach" in shown
    assert f"next: autoquant check {job}" in shown
