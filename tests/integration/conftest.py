"""Small jobs on real networks, for the integration tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ENTRY = """
import torch
from tests.networks import MixedNet, images, seeded

def model():
    return seeded(MixedNet)

def batches(count, seed):
    inputs = images(count, seed)
    with torch.no_grad():
        targets = seeded(MixedNet)(inputs).argmax(1)
    return list(zip(inputs.split(32), targets.split(32)))
"""
CHAIN = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(*(part for _ in range(8) for part in (nn.Linear(8, 8), nn.Tanh())))

def batches(count, seed):
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        targets = model()(inputs).argmax(1)
    return list(zip(inputs.split(32), targets.split(32)))
"""
WriteJob = Callable[..., Path]
RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def write_job(tmp_path: Path) -> WriteJob:
    """Write a job file for MixedNet; keyword arguments replace sections."""
    return job_writer(tmp_path)


@pytest.fixture
def write_quick_job(tmp_path: Path) -> WriteJob:
    """The same for a chain of small layers drawn at random, where the network is of no matter."""
    return job_writer(tmp_path, CHAIN, sampler="random")


def job_writer(folder: Path, entry: str = ENTRY, **general: object) -> WriteJob:
    """Write job files into a folder; without tracking, which most do not look at."""

    def write(name: str = "job", **sections: object) -> Path:
        (folder / "entry.py").write_text(entry)
        document = {
            "name": name,
            "model": {"entry": "entry.py:model"},
            "data": {
                "calibration": {
                    "entry": "entry.py:batches",
                    "arguments": {"count": 128, "seed": 1},
                },
                "evaluation": {"entry": "entry.py:batches", "arguments": {"count": 96, "seed": 2}},
                "heldout": {"entry": "entry.py:batches", "arguments": {"count": 64, "seed": 3}},
                "metric": "accuracy",
            },
            "sensitivity": {"samples": 16},
            "backend": {"engine": "fbgemm", "pairs": 3},
            "space": {"schemes": ["int8", "int16", "fp16", "fp32"]},
            "objectives": ["output_error", "bops"],
            "constraints": {"accuracy_drop": None},
            "budget": {"trials": 24, "round_size": 6},
            "execution": {"kind": "local"},
            "tracking": {"enabled": False},
            "seed": 3,
            "output": str(folder / name),
            **general,
            **sections,
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def command(*arguments: str) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "autoquant", *arguments]


@pytest.fixture
def run_cli() -> RunCli:
    """Run the command line in a process of its own."""

    def run(*arguments: str, timeout: int = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
