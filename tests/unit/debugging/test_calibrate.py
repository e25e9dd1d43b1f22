"""Observers compared: the numbers are those of the plan, and what is said follows from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import autoquant as aq
from autoquant.cli import main
from autoquant.core.findings.calibrations import SETTLED_DB, CalibrationRow, CalibrationTable
from autoquant.core.measurement import Kind, Measurement
from autoquant.core.statistics import ObserverName
from autoquant.errors import JobError
from autoquant.job import Job, dump_job
from autoquant.results import files
from autoquant.results.plots.calibration import calibration_figure
from autoquant.searching.settings import check_resumable, settings_of
from tests.integration.bad_inputs.stage import write_job
from tests.networks import LinearNet, seeded

pytestmark = pytest.mark.filterwarnings("ignore")


def inputs(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return seeded(LinearNet)


@pytest.fixture(scope="module")
def table(model: nn.Module) -> CalibrationTable:
    return aq.compare_observers(
        model,
        calibration=inputs(256, 1),
        evaluation=(inputs(128, 2), model(inputs(128, 2)).argmax(1)),
        engine="fbgemm",
    )


@pytest.mark.slow
def test_every_observer_is_measured_from_ten_steps_to_all(table: CalibrationTable) -> None:
    assert table.observers == tuple(ObserverName)
    for observer in ObserverName:
        rows = table.rows_of(observer)
        assert [row.steps for row in rows] == [10, 20, 40, 80, 128]
        assert [row.samples for row in rows] == [20, 40, 80, 160, 256]
    assert {row.measurements["sqnr_db"].kind for row in table.rows} == {Kind.MEASURED}


@pytest.mark.slow
def test_a_row_has_the_numbers_of_a_search_that_calibrates_so(
    model: nn.Module, table: CalibrationTable, tmp_path: Path
) -> None:
    found = aq.search(
        model,
        calibration=list(inputs(256, 1).split(2)),
        evaluation=(inputs(128, 2), model(inputs(128, 2)).argmax(1)),
        backend="fbgemm",
        space={"schemes": ["int8", "fp32"]},
        objectives=("output_error", "bops"),
        ranges={"observer": "mse"},
        max_drop=None,
        trials=0,
        capture="export",
        output=tmp_path / "out",
    )
    uniform = next(item for item in found.candidates if "fp32" not in item.plan.counts())
    row = table.rows_of(ObserverName.MSE)[-1]
    assert uniform.value("sqnr_db") == pytest.approx(row.sqnr_db, abs=1e-6)


@pytest.mark.slow
def test_a_search_with_mix_and_fixed_ranges_is_loaded_as_it_was(
    model: nn.Module, tmp_path: Path
) -> None:
    found = aq.search(
        model,
        calibration=inputs(128, 1),
        evaluation=(inputs(64, 2), model(inputs(64, 2)).argmax(1)),
        backend="fbgemm",
        space={"schemes": ["int8", "fp32"]},
        objectives=("output_error", "bops"),
        ranges={"observer": "mix", "sites": {"last": "kl"}, "fixed_ranges": {"inputs.x": [-9, 9]}},
        max_drop=None,
        trials=0,
        capture="export",
        output=tmp_path / "out",
    )
    loaded = aq.load_result(tmp_path / "out")
    rules = loaded.context.build.ranges
    assert dict(rules.sites)["last"] is ObserverName.KL
    assert set(dict(rules.sites)) == {"first", "second", "last"}
    assert ObserverName.MIX not in dict(rules.sites).values()
    assert [(item.name, item.low, item.high) for item in rules.fixed] == [("inputs.x", -9, 9)]
    for before, after in zip(found.candidates, loaded.candidates, strict=True):
        batch = inputs(8, 3)
        assert torch.equal(before.quantize(model)(batch), after.quantize(model)(batch))


def row(observer: ObserverName, steps: int, sqnr: float) -> CalibrationRow:
    found = {"sqnr_db": Measurement(sqnr, Kind.MEASURED, stderr=0.1)}
    return CalibrationRow(observer, steps, 2 * steps, found, {})


def test_more_data_pays_as_long_as_it_gains_more_than_the_luck_of_rounding() -> None:
    levels = (20.0, 29.0 - SETTLED_DB, 29.0, 28.9)
    steps = (10, 20, 40, 80)
    rows = [row(ObserverName.MSE, *pair) for pair in zip(steps, levels, strict=True)]
    rows += [row(ObserverName.KL, item, 28.0) for item in steps]
    found = CalibrationTable(tuple(rows), {"int8": 3}, 128)
    assert found.enough(ObserverName.MSE).steps == 20
    assert found.enough(ObserverName.KL).steps == 10
    assert found.best.observer is ObserverName.MSE


def test_the_figure_has_a_line_for_each_observer(table: CalibrationTable) -> None:
    figure = calibration_figure(table)
    assert [trace.name for trace in figure.data] == [item.value for item in ObserverName]
    line = figure.data[0]
    assert list(line.x) == [20, 40, 80, 160, 256]
    assert list(line.y) == [item.sqnr_db for item in table.rows_of(ObserverName.HISTOGRAM)]


@pytest.mark.slow
def test_the_command_prints_json_and_keeps_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path)
    words = ["--observer", "minmax", "--observer", "percentile", "--step", "4", "--json"]
    plot = tmp_path / "plot.html"
    assert main(["calibrate", str(job), *words, "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["observer"] for item in found["rows"]] == ["minmax"] * 5 + ["percentile"] * 5
    assert [item["steps"] for item in found["rows"]][:5] == [1, 2, 4, 8, 16]
    assert found["best"] in ("minmax", "percentile")
    assert "Calibration samples" in plot.read_text()


def test_the_command_says_what_the_table_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path, {"model": {"capture": "export"}})
    assert main(["calibrate", str(job), "--observer", "mix"]) == 0
    text = capsys.readouterr().out
    assert "most SQNR with all data: mix" in text
    assert "mix took" in text


def _job(tmp_path: Path, **calibration: object) -> Job:
    return Job.model_validate(
        {
            "name": "job",
            "space": {"schemes": ["int8", "fp32"]},
            "output": str(tmp_path),
            "calibration": calibration,
        }
    )


def test_a_job_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    document = yaml.safe_load(dump_job(_job(tmp_path)))
    document["calibration"] = {"observer": "histogram", "samples": None}
    (tmp_path / files.JOB).write_text(yaml.safe_dump(document))
    check_resumable(_job(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("before", "now", "key"),
    [
        ({}, {"percentile": 99.9}, "calibration.percentile"),
        ({"sites": {"f*": "mse"}}, {"sites": {"f*": "kl"}}, "calibration.sites"),
        ({"sites": {"f*": "mse"}}, {}, "calibration.sites"),
        ({}, {"fixed_ranges": {"inputs.x": [0, 1]}}, "calibration.fixed_ranges"),
    ],
    ids=["percentile", "other-observer", "rule-gone", "range-new"],
)
def test_other_ranges_are_another_search(
    tmp_path: Path, before: dict[str, object], now: dict[str, object], key: str
) -> None:
    (tmp_path / files.JOB).write_text(dump_job(_job(tmp_path, **before)))
    with pytest.raises(JobError, match=key):
        check_resumable(_job(tmp_path, **now), tmp_path)


def test_patterns_are_no_part_of_a_settings_name(tmp_path: Path) -> None:
    found = settings_of(_job(tmp_path, sites={"f.*": "mse"}, fixed_ranges={"*[0]": [0, 1]}))
    assert found["calibration.sites"] == "f.*: mse"
    assert found["calibration.fixed_ranges"] == "*[0]: [0.0, 1.0]"
    assert not any("*" in name for name in found)
