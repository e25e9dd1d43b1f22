"""`autoquant finetune`: killed, resumed, and printed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoquant.cli import main

ROOT = Path(__file__).parents[2]
ENTRY = '''
import os, signal
from pathlib import Path
import torch
from tests.networks import LinearNet, seeded

def model():
    return seeded(LinearNet)

def batches(seed):
    inputs = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed))
    targets = (inputs[:, :4] + inputs[:, 4:8]).argmax(1)
    return list(zip(inputs.split(16), targets.split(16)))

class Dying:
    """Kills its process, without a chance to clean up, where the file `die` holds a number."""

    def __iter__(self):
        for batch in batches(4):
            die = Path(__file__).with_name("die")
            left = int(die.read_text()) if die.exists() else None
            if left == 0:
                die.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if left is not None:
                die.write_text(str(left - 1))
            yield batch

def training(seed):
    return Dying()
'''
JOB = """
name: job
model: entry.py:model
data:
  calibration: entry.py:batches
  evaluation: entry.py:batches
  metric: accuracy
  arguments: {seed: 1}
backend: {engine: fbgemm}
space: {schemes: [int8, fp32]}
tracking: {enabled: false}
finetune:
  data: entry.py:training
  loss: torch.nn.functional:cross_entropy
  float_steps: 30
  share: 1.0
  checks: 6
  learning_rates: [0.01, 0.1]
  optimizer: adam
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "entry.py").write_text(ENTRY)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--finetune.rate_factors", "{'*bias': 0.0}", "--output", str(tmp_path / "tuned")]
    assert main(["finetune", str(job), "--plan", "int8", "--dry-run", *given]) == 0
    printed = capsys.readouterr().out
    assert "2 runs of 7 steps choose of the learning rates 0.01, 0.1; then 16 steps" in printed
    assert "*bias: rate x 0 (" in printed
    assert "warning: 30 steps are 100% of the float training's" in printed
    assert not (tmp_path / "tuned").exists()


def test_a_killed_training_resumes_to_the_weights_of_one_that_was_not(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = job.parent / "whole", job.parent / "cut"
    words = ["finetune", str(job), "--plan", "int8"]
    assert main([*words, "--output", str(whole), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((whole / "finetune.json").read_text())
    (job.parent / "die").write_text("25")
    killed = subprocess.run(
        [sys.executable, "-m", "autoquant", *words, "--output", str(cut)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=900,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (cut / "checkpoint.pt").exists()
    assert not (cut / "finetune.json").exists()
    assert main([*words, "--output", str(cut), "--resume"]) == 0
    assert "plan after training" in capsys.readouterr().out
    first = torch.load(whole / "weights.pt", weights_only=True)
    second = torch.load(cut / "weights.pt", weights_only=True)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((cut / "finetune.json").read_text()) == printed
