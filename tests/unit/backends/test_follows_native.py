"""What follows an op with an fp16 kernel runs in float: the plan keeps its latency."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autoquant as aq
from autoquant.core.measurement import Kind
from autoquant.core.precision import Scheme, Support

ROWS = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
SPACE = {"schemes": ["fp32"], "rules": [{"kind": "linear", "schemes": ["fp16", "fp32"]}]}


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.ReLU()], ids=str)
def test_an_fp16_linear_with_an_activation_behind_it_is_timed(
    activation: nn.Module, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), activation, nn.LayerNorm(64), nn.Linear(64, 4))
    result = aq.search(
        model.eval(),
        calibration=ROWS,
        evaluation=(ROWS, torch.zeros(16).long()),
        backend={"engine": "x86", "pairs": 3},
        space=SPACE,
        trials=4,
        max_drop=None,
        output=tmp_path / "out",
    )
    halves = [item for item in result.candidates if item.plan["0"] is Scheme.FP16]
    assert halves
    for candidate in halves:
        assert candidate.failure is None
        assert candidate.executed["0"].scheme is Scheme.FP16
        assert {ran.support for ran in candidate.executed.values()} == {Support.NATIVE}
        latency = candidate.measurements["latency_ms"].kind
        assert latency is Kind.MEASURED or candidate.stopped, "a busy machine rules plans out"
