"""What a search says of all int8 before it opens an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import autoquant as aq
from autoquant.core.progress import Silent
from tests.networks import LinearNet, seeded

pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLES = 32
LOOK = "all int8, emulated"


class Heard(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    @property
    def looks(self) -> list[str]:
        return [text for text in self.told if text.startswith("all int8, ")]


def search(output: Path, **settings: Any) -> tuple[aq.SearchResult, list[str]]:
    inputs = torch.randn(SAMPLES, 16, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(SAMPLES) % 4
    heard = Heard()
    result = aq.search(
        **{
            "model": seeded(LinearNet),
            "calibration": inputs,
            "evaluation": (inputs, targets),
            "backend": {"name": "profile", "profile": "npu_int8_int16_fp16"},
            "objectives": ("output_error", "bops"),
            "effort": "quick",
            "output": output,
            "progress": heard,
            **settings,
        },
    )
    return result, heard.looks


def test_it_is_what_an_emulated_candidate_measures_on_the_same_samples(tmp_path: Path) -> None:
    result, looks = search(tmp_path / "out")
    found = next(item for item in result.candidates if item.origin == "seed:uniform-int8")
    assert looks == [
        f"{LOOK} on {SAMPLES} samples: accuracy {100 * found.value('accuracy'):.4g}%, drop "
        f"{100 * found.value('accuracy_drop'):.2f} ± "
        f"{100 * found.measurements['accuracy_drop'].stderr:.2f} points, "
        f"SQNR {found.value('sqnr_db'):.1f} dB"
    ]


def test_a_metric_that_needs_more_samples_is_left_out(tmp_path: Path) -> None:
    seen: list[int] = []

    class OfMany:
        """As an area under a curve, which a class without samples leaves undefined."""

        def __init__(self) -> None:
            self.right: list[Tensor] = []

        def update(self, outputs: Tensor, targets: Tensor) -> None:
            self.right.append(outputs.argmax(1) == targets)

        def compute(self) -> Tensor:
            right = torch.cat(self.right)
            seen.append(len(right))
            if len(right) <= SAMPLES:
                raise ValueError("too few samples")
            return right.float().mean()

    inputs = torch.randn(2 * SAMPLES, 16)
    data = (inputs, torch.zeros(2 * SAMPLES, dtype=torch.long))
    result, looks = search(tmp_path / "out", evaluation=data, metric=OfMany)
    assert SAMPLES in seen
    assert len(looks) == 1
    assert looks[0].startswith(f"{LOOK} on {SAMPLES} samples: SQNR ")
    assert all("accuracy" in item.measurements for item in result.candidates)


def test_without_int8_nothing_is_said(tmp_path: Path) -> None:
    _, looks = search(tmp_path / "out", space={"schemes": ["fp16", "fp32"]})
    assert not looks


def test_of_a_model_that_is_equalised_it_is_said_before_and_after(tmp_path: Path) -> None:
    unlike = seeded(LinearNet)
    with torch.no_grad():
        unlike.first.weight[0] *= 256.0
        unlike.first.bias[0] *= 256.0
        unlike.second.weight[:, 0] /= 256.0
    result, (before, after) = search(tmp_path / "out", model=unlike)
    found = next(item for item in result.candidates if item.origin == "seed:uniform-int8")
    assert after.startswith(f"all int8, equalised, emulated on {SAMPLES} samples: ")
    assert decibels(after) == pytest.approx(found.value("sqnr_db"), abs=1.0)
    assert before.startswith(f"{LOOK} on {SAMPLES} samples: ")
    assert decibels(before) < decibels(after) - 20.0


def decibels(look: str) -> float:
    return float(look.split()[-2])


def test_overflow_is_said_where_the_metric_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(*_: object) -> Tensor:
        return torch.full((SAMPLES, 4), torch.inf)

    def fails(outputs: Tensor, _: Tensor) -> Tensor:
        if len(outputs) <= SAMPLES:
            raise ValueError("too few samples")
        return torch.ones(len(outputs))

    monkeypatch.setattr("autoquant.searching.preparing.first_look.RoundedGraph.run", overflow)
    inputs = torch.randn(2 * SAMPLES, 16)
    data = (inputs, torch.zeros(2 * SAMPLES, dtype=torch.long))
    _, looks = search(tmp_path / "out", evaluation=data, metric=fails, effort="quick", trials=1)
    assert looks == ["all int8, emulated: outputs hold NaN or infinity"]
