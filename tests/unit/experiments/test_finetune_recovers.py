"""Fine-tuning on real images: a plan that int8 ruins gets most of its accuracy back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autoquant as aq
from autoquant.core.measurement import Kind
from autoquant.model.data.entry_points import load_entry

FILE = Path(__file__).parents[3] / "experiments" / "digits.py"


def entry(name: str) -> Callable[..., Any]:
    return load_entry(f"{FILE}:{name}")


@pytest.mark.slow
def test_a_plan_that_loses_much_gets_more_than_half_back_on_images_never_seen(
    tmp_path: Path,
) -> None:
    result = aq.finetune(
        entry("model")(width=16, outlier_scale=85.0),
        "int8",
        entry("training")(),
        entry("loss"),
        float_steps=190,
        share=1.0,
        steps=50,  # by Adam as good as 190 of SGD
        checks=2,
        optimizer="adam",
        learning_rates=(1e-4,),
        calibration=entry("calibration")(),
        evaluation=entry("evaluation")(),
        heldout=entry("heldout")(),
        output=tmp_path,
    )
    found = result.recovery
    assert (found.data, found.after.score.kind) == ("heldout", Kind.MEASURED)
    assert found.before.drop.value >= 0.02
    assert found.recovered_share is not None
    assert found.recovered_share >= 0.5
    assert found.gain.stderr is not None
    assert found.gain.value > 3 * found.gain.stderr
    assert result.steps == 50
