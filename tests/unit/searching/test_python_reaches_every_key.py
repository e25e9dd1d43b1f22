"""What a job file can say, a call from Python can say too; what it cannot say is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import autoquant as aq
from autoquant.errors import JobError
from autoquant.job import RunSettings, SearchSettings, Setup
from tests.networks import LinearNet, seeded

INPUTS = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
DATA = (INPUTS, torch.zeros(32, dtype=torch.long))


def _finetune(ranges: Mapping[str, Any] | None = None, **settings: Any) -> object:
    sections = settings if ranges is None else {**settings, "calibration": ranges}
    return aq.finetune(
        seeded(LinearNet),
        "int8",
        [DATA],
        torch.nn.functional.cross_entropy,
        float_steps=100,
        calibration=INPUTS,
        evaluation=DATA,
        sections=sections,
    )


CALLS: Mapping[str, tuple[Callable[..., object], Callable[..., object], type[Setup]]] = {
    "check": (aq.check, lambda **more: aq.check(seeded(LinearNet), INPUTS, **more), Setup),
    "compare": (
        aq.compare,
        lambda **more: aq.compare(seeded(LinearNet), "int8", INPUTS, **more),
        Setup,
    ),
    "compare_observers": (
        aq.compare_observers,
        lambda **more: aq.compare_observers(
            seeded(LinearNet), calibration=INPUTS, evaluation=DATA, **more
        ),
        Setup,
    ),
    "diagnose": (
        aq.diagnose,
        lambda **more: aq.diagnose(
            seeded(LinearNet), calibration=INPUTS, evaluation=INPUTS, **more
        ),
        Setup,
    ),
    "finetune": (aq.finetune, _finetune, RunSettings),
    "search": (
        aq.search,
        lambda **more: aq.search(seeded(LinearNet), calibration=INPUTS, evaluation=DATA, **more),
        SearchSettings,
    ),
    "sensitivity": (
        aq.sensitivity,
        lambda **more: aq.sensitivity(
            seeded(LinearNet), calibration=INPUTS, evaluation=DATA, **more
        ),
        Setup,
    ),
    "tune": (
        aq.tune,
        lambda **more: aq.tune(seeded(LinearNet), calibration=INPUTS, evaluation=DATA, **more),
        SearchSettings,
    ),
}

OF_MODEL_AND_DATA = {"capture", "leaf_modules", "target", "prepare", "dynamic", "cache_mb"}

WRONG: Mapping[str, tuple[object, str]] = {
    "calibration": ({"percentile": 10.0}, "calibration.percentile"),
    "sensitivity": ({"samples": 0}, "sensitivity.samples"),
    "backend": ({"pairs": 1}, "backend.pairs"),
    "space": ({"schemes": ["int9"]}, "space.schemes.0"),
    "objectives": (["latency"], "objectives"),
    "outputs": ({"logits": -1.0}, "outputs.logits"),
    "execution": ({"cpus_per_worker": 0}, "execution.cpus_per_worker"),
}


def test_every_section_of_a_setup_is_tried() -> None:
    assert WRONG.keys() == Setup.model_fields.keys()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("section", WRONG)
def test_each_section_is_read_and_judged_by_key(name: str, section: str) -> None:
    value, key = WRONG[section]
    with pytest.raises(JobError, match=key.replace(".", r"\.")):
        CALLS[name][1](**{"ranges" if section == "calibration" else section: value})


@pytest.mark.parametrize("name", CALLS)
def test_each_call_says_how_to_read_model_and_data(name: str) -> None:
    assert inspect.signature(CALLS[name][0]).parameters.keys() >= OF_MODEL_AND_DATA


@pytest.mark.parametrize("name", CALLS)
def test_a_section_that_a_call_does_not_read_is_refused(name: str) -> None:
    section = "nonsense" if "budget" in CALLS[name][2].model_fields else "budget"
    with pytest.raises(JobError, match=f"{section}: unknown key"):
        CALLS[name][1](**{section: {}})


def test_a_shipped_profile_is_found_by_its_name(tmp_path: Path) -> None:
    result = aq.search(
        seeded(LinearNet),
        calibration=INPUTS,
        evaluation=DATA,
        backend={"name": "profile", "profile": "npu_int8_int16_fp16"},
        space={"schemes": ["int8", "int16"]},
        objectives=("output_error", "bops"),
        trials=0,
        output=tmp_path / "out",
    )
    assert "npu_int8_int16_fp16" in str(result.context.build.options["profile"])


def test_fewer_calibration_samples_are_taken_from_python_too() -> None:
    report = aq.check(seeded(LinearNet), INPUTS, ranges={"samples": 8})
    assert report.samples == 8
