"""`aq.tune` on a network with outlier channels: the answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoquant as aq
from autoquant.core.findings.tuning import Stage, TuneReport
from autoquant.core.progress import Silent
from tests.networks import LinearNet, seeded


def with_outliers() -> nn.Module:
    """LinearNet's function with channels behind `first` that int8 cannot hold together."""
    model = seeded(LinearNet)
    with torch.no_grad():
        model.first.weight[:2] *= 64
        model.first.bias[:2] *= 64
        model.second.weight[:, :2] /= 64
    return model


def arguments(output: Path, **changes: Any) -> dict[str, Any]:
    model = with_outliers()
    draw = torch.Generator().manual_seed(3)
    inputs, unseen = (torch.randn(512, 16, generator=draw) for _ in range(2))
    with torch.no_grad():
        targets, others = model(inputs).argmax(1), model(unseen).argmax(1)
    return {
        "calibration": torch.randn(256, 16, generator=draw),
        "evaluation": (inputs, targets),
        "heldout": (unseen, others),
        "backend": {"engine": "fbgemm", "pairs": 3},
        "max_drop": 0.03,
        "trials": 4,
        "output": output,
    } | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def report(folder: Path) -> TuneReport:
    return aq.tune(with_outliers(), **arguments(folder))


def test_the_op_that_reads_the_outliers_is_raised_and_no_other(report: TuneReport) -> None:
    """The op that writes them in int8 hands its sums on in float: what reads them rounds them."""
    assert report.plan is not None
    assert report.plan.to_json() == {"first": "int8", "second": "int16", "last": "int8"}


def test_the_chosen_plan_alone_is_scored_on_held_out_data(report: TuneReport) -> None:
    scored = [item for item in report.attempts if "heldout_accuracy" in item.candidate.measurements]
    assert scored == [report.chosen]


def test_a_second_run_measures_nothing_and_ends_the_same(report: TuneReport, folder: Path) -> None:
    (kept,) = (folder / "tuning").glob("evaluated-*.jsonl")
    before = kept.read_bytes()
    again = aq.tune(with_outliers(), **arguments(folder))
    assert kept.read_bytes() == before
    assert again.plan == report.plan
    assert [item.plan for item in again.attempts] == [item.plan for item in report.attempts]


def test_other_weights_are_measured_anew(report: TuneReport, folder: Path) -> None:
    del report
    other = with_outliers()
    with torch.no_grad():
        other.last.bias[0] += 0.1
    aq.tune(other, **arguments(folder, trials=0))
    assert len(list((folder / "tuning").glob("evaluated-*.jsonl"))) == 2


def test_the_report_says_what_was_tried_and_its_plans_seed_a_search(
    report: TuneReport, tmp_path: Path
) -> None:
    again = aq.tune(with_outliers(), **arguments(tmp_path))
    document = json.loads((tmp_path / "tune.json").read_text())
    text = (tmp_path / "tune.md").read_text()
    assert again.plan is not None
    assert document["chosen"] == again.plan.digest == aq.load_plan(tmp_path / "tuned.json").digest
    assert all(stage in text for stage in (Stage.INT16.value, Stage.INT8.value))
    result = aq.search(
        with_outliers(),
        **arguments(tmp_path / "search", trials=0, max_drop=None),
        space="npu",
        objectives=("output_error", "int16_share"),
        seeds=[tmp_path / "tune.json"],
    )
    found = {item.plan: item.origin for item in result.candidates}
    assert found[again.plan] == "seed:template-1"
    assert len(document["plans"]) == len({item["digest"] for item in document["plans"]}) >= 2
    assert report.plan == again.plan


def test_an_interrupted_run_keeps_what_it_measured_and_another_goes_on(
    report: TuneReport, tmp_path: Path
) -> None:
    class Impatient(Silent):
        def note(self, text: str) -> None:
            if text.startswith(Stage.INT8.value):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aq.tune(with_outliers(), **arguments(tmp_path, progress=Impatient()))
    (kept,) = (tmp_path / "tuning").glob("evaluated-*.jsonl")
    first = kept.read_bytes()
    assert len(first.splitlines()) == 2
    again = aq.tune(with_outliers(), **arguments(tmp_path))
    assert kept.read_bytes().startswith(first)
    assert again.plan == report.plan
