"""`autoquant init`: a first job from what a user says, checked at once where that is enough."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoquant.cli import main

NET = """
import torch
from torch import nn

class Scored(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, features):
        return self.body(features)

def model():
    torch.manual_seed(0)
    return Scored().eval()

def tuples():
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    return [(x, model()(x).argmax(1))]

def dicts():
    return [{"features": x, "label": y} for x, y in tuples()]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("batches", "options"),
    [("tuples", []), ("dicts", ["--target", "label"])],
    ids=["tuples", "dicts"],
)
def test_what_names_everything_is_checked_and_can_be_searched(
    batches: str, options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--calibration", f"net.py:{batches}", "--evaluation", f"net.py:{batches}"]
    assert main(["init", "first", "--model", "net.py:model", *data, *options]) in (0, 1)
    assert "next: autoquant search first.yaml" in capsys.readouterr().out
    assert not (folder / "first.py").exists()
    few = ["--set", "budget.trials=2", "--set", "execution.kind=local"]
    assert main(["search", "first.yaml", "--set", "tracking.enabled=false", *few]) == 0
    assert (folder / "out" / "first" / "frontier.json").exists()


@pytest.mark.usefixtures("folder")
def test_a_job_for_an_engine_that_check_does_not_know_is_looked_at_by_a_dry_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnxruntime")
    data = ["--calibration", "net.py:tuples", "--evaluation", "net.py:tuples"]
    named = ["--model", "net.py:model", *data, "--backend", "onnxruntime"]
    assert main(["init", "first", *named]) == 0
    said = capsys.readouterr().out
    assert "sites hold 100.0% of the weights" in said
    assert "next: autoquant search first.yaml" in said
    assert "check" not in Path("first.yaml").read_text()


@pytest.mark.parametrize("target", ["", "label"], ids=["tuples", "dicts"])
def test_what_is_left_out_is_a_function_to_fill_in(
    target: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--target", target] if target else []
    assert main(["init", "later", *options]) == 0
    said = capsys.readouterr().out
    assert "fill in later.py, then: autoquant check later.yaml" in said
    filled = (folder / "later.py").read_text()
    own = "from net import model as own; return own()"
    data = f"from net import tuples, dicts; return {'dicts' if target else 'tuples'}()"
    for text in (own, data):
        filled, count = re.subn(
            r"raise NotImplementedError\(.*?\"\s*\)\n", f"{text}\n", filled, count=1, flags=re.S
        )
        assert count == 1
    (folder / "later.py").write_text(filled)
    assert main(["check", "later.yaml"]) in (0, 1)


@pytest.mark.usefixtures("folder")
def test_what_is_not_filled_in_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "later"]) == 0
    assert main(["check", "later.yaml"]) == 2
    assert "NotImplementedError: build your model here" in capsys.readouterr().err


def test_a_first_job_replaces_nothing_and_leaves_nothing_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "net.yaml").write_text("mine")
    assert main(["init", "net"]) == 2
    assert "net.yaml exists already" in capsys.readouterr().err
    assert (folder / "net.yaml").read_text() == "mine"
    assert main(["init", "other", "--backend", "openvin"]) == 2
    assert "did you mean 'openvino'?" in capsys.readouterr().err
    assert not (folder / "other.yaml").exists()
