"""`aq.sensitivity`: the ranking with the metric, on chosen samples, and what stands out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.core.findings.sensitivity_report import SensitivityReport
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part
from autoquant.errors import PlanError
from autoquant.results.sensitivity_file import write_sensitivity
from autoquant.results.sensitivity_text import sensitivity_json, sensitivity_sentences
from tests.networks import LinearNet, MixedNet, images, seeded


class TopBoxes(nn.Module):
    """The 64 boxes of the best scores among 512: post-processing left in the model."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(3)]
        self.body = nn.Sequential(*layers)
        self.scores = nn.Linear(16, 512)
        self.boxes = nn.Linear(16, 512)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        places = self.scores(features).topk(64, dim=1).indices
        return torch.gather(self.boxes(features), 1, places)


def examine(model: nn.Module, count: int = 48, **changes: Any) -> SensitivityReport:
    inputs = images(count, seed=2)
    with torch.no_grad():
        targets = model(inputs).argmax(1)
    arguments: dict[str, Any] = {
        "calibration": images(128, seed=1),
        "evaluation": (inputs, targets),
        "backend": "fbgemm",
        "samples": 16,
    }
    return aq.sensitivity(model, **(arguments | changes))


@pytest.fixture(scope="module")
def healthy() -> SensitivityReport:
    return examine(seeded(MixedNet), metric_rows=3)


def test_the_metric_is_measured_for_the_noisiest_rows_and_no_others(
    healthy: SensitivityReport,
) -> None:
    rows = [row for row in healthy.table.rows if row.part is Part.BOTH]
    noisiest = sorted(rows, key=lambda row: -row.noise)[:3]
    assert set(healthy.metric) == {(row.knob, row.scheme) for row in noisiest}


def test_the_metrics_drop_is_what_a_search_measures_of_this_plan() -> None:
    model = seeded(LinearNet)
    inputs = torch.randn(48, 16, generator=torch.Generator().manual_seed(2))
    arguments: dict[str, Any] = {
        "calibration": torch.randn(128, 16, generator=torch.Generator().manual_seed(1)),
        "evaluation": (inputs, model(inputs).argmax(1)),
        "backend": "fbgemm",
        "space": {"schemes": ["int8", "fp32"]},
    }
    report = aq.sensitivity(model, metric_rows=1, **arguments)
    (((knob, scheme), found),) = report.metric.items()
    plan = {site: Scheme.FP32 for item in report.space.knobs for site in item.sites}
    plan |= dict.fromkeys(report.space.by_name[knob].sites, scheme)
    result = aq.search(
        model,
        max_drop=None,
        trials=0,
        objectives=("output_error", "bops"),
        seeds=[aq.Plan.of(plan)],
        **arguments,
    )
    (same,) = [item for item in result.candidates if item.origin == "seed:template-1"]
    assert same.measurements["accuracy_drop"] == found["accuracy_drop"]
    assert found["accuracy_drop"].samples == 48
    assert found["accuracy_drop"].stderr is not None


def test_a_healthy_network_has_a_tail_near_zero_and_no_warnings(healthy: SensitivityReport) -> None:
    assert healthy.tail is not None
    assert healthy.tail.is_near_zero
    assert list(sensitivity_sentences(healthy)) == []


def test_post_processing_left_in_the_model_is_warned_of() -> None:
    torch.manual_seed(0)
    data = {
        "calibration": torch.randn(128, 16),
        "evaluation": (torch.randn(48, 16), torch.zeros(48, 64)),
    }
    report = aq.sensitivity(
        TopBoxes().eval(), **data, metric=aq.metrics.mse, backend="fbgemm", metric_rows=0
    )
    assert report.tail is not None
    assert not report.tail.is_near_zero
    (warning,) = [text for text in sensitivity_sentences(report) if text.startswith("warning")]
    assert f"{report.tail.noise:.1%}" in warning
    assert "post-processing" in warning


@pytest.mark.slow
def test_chosen_samples_alone_stand_behind_every_number() -> None:
    model, inputs = seeded(MixedNet), images(48, seed=2)
    chosen = examine(model, indices=[40, 3, 17], metric_rows=1)
    alone = inputs[[3, 17, 40]]
    same = examine(model, evaluation=(alone, model(alone).argmax(1)), metric_rows=1, samples=3)
    assert chosen.indices == (3, 17, 40)
    assert chosen.table.rows == same.table.rows
    assert chosen.metric == same.metric


def test_the_json_holds_every_row_and_its_drop(healthy: SensitivityReport) -> None:
    document = sensitivity_json(healthy)
    assert len(document["rows"]) == len(healthy.table.rows)
    assert sum(row["metric_drop"] is not None for row in document["rows"]) == 3


def test_the_table_can_be_raised_from_as_it_is(healthy: SensitivityReport) -> None:
    plan = aq.raise_most_sensitive(healthy.table, ratio=0.2, scheme="int16")
    assert set(plan.counts()) == {"int8", "int16"}


@pytest.mark.slow
def test_a_saved_table_is_read_and_ranks_by_another_measure(tmp_path: Path) -> None:
    exact = examine(seeded(MixedNet), by="l1", metric_rows=0)
    assert exact.kinds["stem"] == "conv2d"
    ranked = [row.l1 or 0.0 for row in exact.table.ranking(Scheme.INT8, exact.by)]
    assert ranked == sorted(ranked, reverse=True) != [0.0] * len(ranked)
    path = tmp_path / "table.csv"
    write_sensitivity(path, exact.table)
    again = examine(seeded(MixedNet), saved=path)
    assert again.table == exact.table
    assert aq.raise_most_sensitive(again.table, count=1, by=again.by).counts()["int16"] >= 1
    with pytest.raises(PlanError, match="is not the table of this model"):
        examine(seeded(MixedNet), saved=path, calibration=images(64, seed=9))


def test_the_metric_ranks_by_its_drop_at_every_row() -> None:
    report = examine(seeded(MixedNet), by="metric", space={"schemes": ["int8", "fp32"]})
    rows = report.table.ranking(Scheme.INT8, report.by)
    assert [row.metric_drop for row in rows] == sorted((r.metric_drop for r in rows), reverse=True)


def test_what_gives_no_such_measure_is_refused() -> None:
    with pytest.raises(PlanError, match="the procedure gradient gives no kl"):
        examine(seeded(MixedNet), by="kl", sensitivity={"method": "gradient"})
    with pytest.raises(PlanError, match="no measure is called 'l2'"):
        examine(seeded(MixedNet), by="l2")
