"""The guides' Python runs as it stands in the text."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import autoquant as aq
from autoquant.cli import main
from tests.encoders import job_of
from tests.unit.test_docs import ROOT, blocks, commands

GUIDES = sorted(
    path
    for folder in ("guides", "deploy")
    for path in (ROOT / "docs" / folder).glob("*.md")
    if blocks(path, "python")
)


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_every_block_of_a_guide_runs_in_its_order(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as a program of its own; what needs no autoquant, in a process that never saw it."""
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(path, "python")):
        script = tmp_path / f"{path.stem}_block{number}.py"  # which a failure's traceback names
        script.write_text(block, encoding="utf-8")
        if "import autoquant" in block:
            runpy.run_path(str(script), run_name="__main__")
        else:
            subprocess.run([sys.executable, script.name], check=True)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("AUTOQUANT_TEST_DATA"), reason="needs CIFAR-10")
def test_each_command_of_the_path_is_the_one_that_the_last_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = os.environ["AUTOQUANT_TEST_DATA"]
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    path = [
        [word.replace("FOLDER", data) for word in words]
        for words in commands(ROOT / "docs" / "guide.md")
    ]
    printed = []
    for words in path:
        assert main(words) == 0
        lines = capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines()
        printed += [line for line in lines if line.startswith("next: autoquant ")]
    assert [shlex.split(line)[2:] for line in printed] == path[1:]
    assert (tmp_path / "out" / "resnet20-npu-guide" / "finetune" / "weights.pt").exists()


@pytest.mark.slow
def test_the_path_on_an_encoder_with_outlier_channels_ends_with_a_plan_within_the_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of("text", str(tmp_path / "out")) | {
        "model": {"entry": "tests.encoders:loud_text_model", "equalise": "never"},
        "space": {"schemes": ["int8", "int16", "fp16", "fp32"]},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    monkeypatch.chdir(tmp_path)
    words, seen = ["check", "job.yaml"], []
    while words and words[0] != "export":
        assert main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        seen.append(words[0])
        following = [line for line in lines if line.startswith("next: autoquant ")]
        words = shlex.split(following[-1])[2:] if following else []
    assert seen == ["check", "badcases", "compare", "sensitivity", "tune", "search", "finetune"]
    assert aq.load_result(tmp_path / "out").best().value("accuracy_drop") <= 0.3
    found = json.loads((tmp_path / "out" / "finetune" / "finetune.json").read_text())
    lost = found["recoveries"][0]["before"]["drop"]
    assert lost["value"] > 2 * lost["stderr"]  # what it trained had something to bring back
