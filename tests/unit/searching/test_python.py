"""`autoquant.search` from Python, where a job file has a section."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autoquant as aq

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_section_backend_of_a_job_may_be_given_as_a_mapping(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    rows = torch.randn(8, 8)
    with torch.no_grad():
        labels = model(rows).argmax(1)
    result = aq.search(
        model,
        calibration=rows,
        evaluation=(rows, labels),
        backend={"engine": "x86", "pairs": 4, "batch_size": 5},
        space={"schemes": ["int8", "fp32"]},
        trials=0,
        output=tmp_path / "out",
    )
    samples = result.frontier[0].measurements["speedup"].samples
    assert samples in (4, 8, 12)  # as many again on a busy machine
    assert result.findings.facts.settings["engine"] == "x86"
    assert result.context.latency_batch == 5
