"""What a result is held against: other engines by name, and the same builds on one sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.core.measurement import SINGLE_RIVAL_PLAN, rival_plans
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.errors import JobError
from autoquant.job import schema
from autoquant.job.backend import installed_rivals
from autoquant.results.choices import find_choices, find_rivals
from autoquant.results.summary import summarize
from autoquant.searching import rivals
from tests.networks import LinearNet, seeded

pytestmark = pytest.mark.filterwarnings("ignore")
SAMPLES = 32


class RunningProduct(nn.Module):
    """A model that torch runs and OpenVINO refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cumprod(x, 1))


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def search(output: Path, model: nn.Module, **settings: Any) -> aq.SearchResult:
    inputs = torch.randn(SAMPLES, 16, generator=torch.Generator().manual_seed(0))
    return aq.search(
        model,
        calibration=inputs,
        evaluation=(inputs, torch.zeros(SAMPLES, dtype=torch.long)),
        space={"schemes": ["int8", "fp32"]},
        trials=3,
        output=output,
        **{"backend": {"engine": "fbgemm", "pairs": 4}, **settings},
    )


def test_engines_that_are_named_are_timed_on_the_same_batch_and_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = search(out, seeded(LinearNet), rivals=["qnnpack"])
    found = rival_plans(result.findings.frontier.baseline)
    assert ("qnnpack", Scheme.FP32) in found
    assert all(item.value > 0.0 and item.clock is not None for item in found.values())
    titles = [item.title for item in find_rivals(result.findings)]
    assert "all fp32 on qnnpack" in titles
    assert "qnnpack all fp32" in "\n".join(result.table().notes)
    assert "(one sample " in "\n".join(result.table().notes)
    single = rival_plans(result.findings.frontier.baseline, SINGLE_RIVAL_PLAN)
    assert single.keys() == found.keys()
    assert single["qnnpack", Scheme.FP32].value != found["qnnpack", Scheme.FP32].value
    again = search(out, seeded(LinearNet), rivals=["qnnpack"], resume=True)
    assert rival_plans(again.findings.frontier.baseline) == found


def test_a_later_search_takes_the_times_of_rivals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, other = Heard(), Heard()
    kept = {"rivals": ["qnnpack"], "cache": True}
    result = search(tmp_path / "first", seeded(LinearNet), progress=first, **kept)
    again = search(tmp_path / "again", seeded(LinearNet), progress=other, **kept)
    found, taken = (rival_plans(it.findings.frontier.baseline) for it in (result, again))
    told = [note for note in other.notes if note.startswith("times of qnnpack")]
    baseline = result.findings.frontier.baseline
    single = rival_plans(baseline, SINGLE_RIVAL_PLAN)
    is_quiet = not any(item.busy for item in (*found.values(), *single.values()))
    assert len(told) == is_quiet
    if is_quiet:
        assert taken == found
        assert told[0].endswith("taken from an earlier search")
    backend = {"engine": "fbgemm", "pairs": 4, "batch_size": 2}
    third = search(tmp_path / "batch", seeded(LinearNet), backend=backend, **kept)
    assert rival_plans(third.findings.frontier.baseline) != found


def test_what_is_installed_is_timed_unasked_unless_a_search_shall_end_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr(
        schema, "installed_rivals", lambda own: set(installed_rivals(own)) & {"openvino"}
    )
    found = search(tmp_path / "normal", seeded(LinearNet)).findings.frontier.baseline
    assert ("openvino", Scheme.FP32) in rival_plans(found)
    short: tuple[dict[str, Any], ...] = (
        {"effort": "quick"},
        {"budget": {"minutes": 5}},
        {"rivals": []},
    )
    for number, settings in enumerate(short):
        result = search(tmp_path / str(number), seeded(LinearNet), **settings)
        assert rival_plans(result.findings.frontier.baseline) == {}


def test_an_engine_that_is_broken_ends_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"{name} lacks a library")

    heard = Heard()
    monkeypatch.setattr(schema, "installed_rivals", lambda own: ("openvino",))
    monkeypatch.setattr(rivals, "load_target", fail)
    result = search(tmp_path / "out", seeded(LinearNet), progress=heard)
    assert result.frontier
    assert any(
        note.startswith("the rival openvino is not timed") and "lacks a library" in note
        for note in heard.notes
    )


def test_what_serves_elsewhere_or_takes_minutes_is_no_rival_unasked() -> None:
    assert {"profile", "ethos-u", "litert", "inductor", "torch"}.isdisjoint(
        installed_rivals("torch")
    )
    assert "torch" in installed_rivals("openvino")


def test_a_rival_that_refuses_the_model_is_named_and_the_search_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    heard = Heard()
    result = search(tmp_path / "out", RunningProduct().eval(), rivals=["openvino"], progress=heard)
    assert rival_plans(result.findings.frontier.baseline) == {}
    assert any(note.startswith("the rival openvino is not timed: ") for note in heard.notes)
    assert result.frontier


@pytest.mark.parametrize(
    ("name", "said"),
    [("opnvino", "'opnvino'"), ("profile", "a rival must run here")],
    ids=["unknown", "an estimate"],
)
def test_a_rival_that_cannot_be_timed_is_refused_before_anything_runs(
    tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(JobError, match=said) as caught:
        search(tmp_path / "out", seeded(LinearNet), rivals=[name])
    assert "rivals.0" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_shown_first_is_timed_on_one_sample_too(tmp_path: Path) -> None:
    findings = search(tmp_path / "out", seeded(LinearNet)).findings
    shown = [item.candidate for item in find_choices(findings)]
    shown += [item.candidate for item in find_rivals(findings) if item.candidate is not None]
    assert shown
    for item in shown:
        assert item.value("single_latency_ms") > 0.0
        assert item.measurements["single_speedup"].clock is not None
        assert item.value("single_float_speedup") > 0.0
    assert any("on one sample " in sentence for sentence in summarize(findings))


@pytest.mark.parametrize(
    "settings",
    [{"effort": "quick"}, {"backend": {"engine": "fbgemm", "batch_size": 1, "pairs": 4}}],
    ids=["a quick search", "where the batch is one sample"],
)
def test_one_sample_is_not_timed_twice_nor_in_haste(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    result = search(tmp_path / "out", seeded(LinearNet), **settings)
    assert not any("single_speedup" in item.measurements for item in result.findings.candidates)


class OneBatch(nn.Module):
    """A model that takes batches of one size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.view(SAMPLES, 16))


def test_a_model_of_one_batch_size_is_not_timed_on_one_sample_and_that_is_said(
    tmp_path: Path,
) -> None:
    heard = Heard()
    result = search(tmp_path / "out", OneBatch().eval(), progress=heard, rivals=["qnnpack"])
    assert result.frontier
    baseline = result.findings.frontier.baseline
    assert ("qnnpack", Scheme.FP32) in rival_plans(baseline)
    assert not rival_plans(baseline, SINGLE_RIVAL_PLAN)
    assert not any("single_speedup" in item.measurements for item in result.findings.candidates)
    assert any("is not timed on one sample" in note for note in heard.notes)
