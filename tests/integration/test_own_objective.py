"""An objective of the user's own, from a table: job file, command line and Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import autoquant as aq
from autoquant.cli import main
from tests.integration.bad_inputs.case import data, model
from tests.integration.bad_inputs.stage import write_job

pytestmark = pytest.mark.filterwarnings("ignore")

TABLE = Path(__file__).parents[2] / "experiments" / "energy.csv"


def test_energy_from_a_table_is_traded_and_shown_by_name_and_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "energy.csv").write_text(TABLE.read_text())
    energy = {"name": "energy", "table": "energy.csv", "unit": "nJ"}
    job = write_job(
        tmp_path,
        {
            **model("ratio_model"),
            **data(),
            "objectives": ["output_error", energy],
            "budget": {"trials": 6},
            "space": {"schemes": ["int8", "fp32"]},
        },
    )
    assert main(["search", str(job)]) == 0
    assert "energy, nJ" in " ".join(capsys.readouterr().out.split())
    folder = next(path.parent for path in tmp_path.rglob("frontier.json"))
    written = json.loads((folder / "frontier.json").read_text())
    assert written["objectives"][1] == {"value": "energy", "unit": "nJ"}
    values = [member["values"]["energy"] for member in written["members"]]
    assert {item["kind"] for item in values} == {"estimated"}
    full = written["baseline"]["energy"]["value"]
    assert min(item["value"] for item in values) < 0.6 * full
    assert "Energy, nJ" in (folder / "report.html").read_text()
    found = aq.load_result(folder)
    assert found.to_dataframe()["energy"].notna().any()
    assert "energy, nJ" in [column.title for column in found.table().columns]


def test_a_function_from_python_and_two_costs_at_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
    x = torch.randn(64, 8)
    found = aq.search(
        net,
        calibration=x,
        evaluation=(x, net(x).argmax(1)),
        metric="accuracy",
        max_drop=None,
        space={"schemes": ["int8", "bf16", "fp32"]},
        objectives=[
            "output_error",
            "size",
            {"name": "joules", "unit": "J", "function": lambda site, scheme: 1e-9 * site.macs},
        ],
        trials=8,
        output=tmp_path / "out",
    )
    assert {item.value("joules") for item in found.frontier} == {1e-9 * (8 * 16 + 16 * 4)}
    assert aq.load_result(tmp_path / "out").frontier[0].value("joules") > 0
