"""What a search says of too few samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import autoquant as aq
from autoquant.core.progress import Silent
from tests.networks import LinearNet, seeded

pytestmark = pytest.mark.filterwarnings("ignore")


class Heard(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize(("samples", "is_said"), [(2, True), (64, False)])
def test_few_evaluation_samples_are_said_to_tell_little(
    tmp_path: Path, samples: int, is_said: bool
) -> None:
    inputs = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
    heard = Heard()
    aq.search(
        seeded(LinearNet),
        calibration=inputs,
        evaluation=(inputs[:samples], torch.arange(samples) % 4),
        backend={"name": "profile", "profile": "npu_int8_int16_fp16"},
        objectives=("output_error", "bops"),
        effort="quick",
        output=tmp_path / "out",
        progress=heard,
    )
    assert any(f"{samples} evaluation samples are few" in text for text in heard.told) is is_said
