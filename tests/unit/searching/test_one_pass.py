"""A search in one process reads the model once, opens its backend once, and runs float once."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import autoquant as aq
from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.torch_cpu import target
from autoquant.core.history import StopReason
from autoquant.core.measurement import Candidate
from autoquant.core.progress import Silent
from autoquant.model.subject import Subject
from autoquant.results import files
from autoquant.results.history import History, read_history
from tests.networks import LinearNet, seeded

SAMPLES = 64
SPACE = {"schemes": ["int8", "fp32"]}


def search(output: Path, **settings: Any) -> aq.SearchResult:
    inputs = torch.randn(SAMPLES, 16, generator=torch.Generator().manual_seed(0))
    return aq.search(
        seeded(LinearNet),
        calibration=inputs,
        evaluation=(inputs, torch.zeros(SAMPLES, dtype=torch.long)),
        **{
            "metric": "accuracy",
            "backend": {"engine": "fbgemm", "pairs": 3},
            "space": SPACE,
            "objectives": ("output_error", "bops"),
            "trials": 6,
            "output": output,
            **settings,
        },
    )


def test_nothing_is_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            calls[name] += 1
            return real(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    counted(Subject, "find_sites")
    opened = target.TARGET.open_backend

    def open_backend(request: BuildRequest) -> Backend:
        calls["open_backend"] += 1
        return opened(request)

    monkeypatch.setattr(target, "TARGET", replace(target.TARGET, open_backend=open_backend))
    scored: list[int] = []

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        scored.append(len(outputs))
        return (outputs.argmax(1) == targets).double()

    result = search(tmp_path / "out", metric=metric)
    assert calls == {"find_sites": 1, "open_backend": 1}
    of_float = 3  # twice when the metric is checked, once as the reference and the rival
    of_direction = 8  # beside the targets of seven other samples: is it a loss?
    assert scored.count(SAMPLES) == len(result.candidates) + of_float + of_direction


def test_the_result_is_what_a_reader_of_the_folder_gets(tmp_path: Path) -> None:
    result = search(tmp_path / "out")
    read = aq.load_result(tmp_path / "out")
    assert read.findings == result.findings
    assert read.context.sites == result.context.sites
    assert read.context.build == result.context.build
    assert (read.context.weights, read.context.latency_batch) == (
        result.context.weights,
        result.context.latency_batch,
    )


@pytest.mark.slow
def test_why_a_search_ended_is_a_value(tmp_path: Path) -> None:
    assert search(tmp_path / "out", trials=20, sampler="random").stopped is StopReason.EXHAUSTED
    assert search(tmp_path / "few", trials=0).stopped is StopReason.BUDGET
    assert aq.load_result(tmp_path / "few").stopped is StopReason.BUDGET


def test_a_folder_of_a_version_with_two_journals_is_read_and_resumed(tmp_path: Path) -> None:
    whole = search(tmp_path / "out", trials=0, sampler="random")
    candidates = read_history(tmp_path / "out" / files.HISTORY)
    (tmp_path / "out" / files.HISTORY).unlink()
    with closing(History(tmp_path / "out" / files.HISTORY)) as history:
        for candidate in candidates:  # no asks, no rounds
            history.candidate(candidate)
    (tmp_path / "out" / files.STUDY).write_text('{"op_code":0}\n{"op_code":4}\n')
    facts = json.loads((tmp_path / "out" / files.FACTS).read_text())
    assert facts.pop("stopped") == "budget"
    (tmp_path / "out" / files.FACTS).write_text(json.dumps(facts))
    (tmp_path / "out" / files.MANIFEST).unlink()
    read = aq.load_result(tmp_path / "out")
    assert read.stopped is None
    assert read.findings.candidates == whole.findings.candidates
    resumed = search(tmp_path / "out", trials=20, sampler="random", resume=True)
    assert resumed.findings.candidates[: len(candidates)] == candidates
    assert len(resumed.candidates) == 2**3


class InterruptsAt(Silent):
    """A watcher who presses Ctrl-C at a candidate."""

    def __init__(self, number: int) -> None:
        self.number = number

    def candidate(self, candidate: Candidate) -> None:
        if candidate.number == self.number:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_search_says_so_and_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole")
    cut = search(tmp_path / "cut", progress=InterruptsAt(3))
    assert cut.stopped is StopReason.INTERRUPTED
    assert aq.load_result(tmp_path / "cut").findings == cut.findings
    assert [item.number for item in cut.candidates] == [0, 1, 2, 3]
    resumed = search(tmp_path / "cut", resume=True)
    assert resumed.stopped is whole.stopped
    assert [(item.plan, item.origin) for item in resumed.candidates] == [
        (item.plan, item.origin) for item in whole.candidates
    ]
    assert resumed.findings.facts.search_id == cut.findings.facts.search_id
    assert not any("interrupted" in text for text in resumed.findings.facts.notices)
