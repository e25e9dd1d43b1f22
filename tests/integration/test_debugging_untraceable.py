"""A text model that torch.fx cannot trace goes through the debugging functions."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import autoquant as aq
from autoquant.core.findings.diagnosis import Pattern
from autoquant.core.progress import Silent
from autoquant.finetuning.order import check_task, finetune_plan, make_task
from autoquant.job import Job, TrainingSettings
from autoquant.model.building import build_subject
from autoquant.model.subject import Subject
from autoquant.results.finetune_folder import FinetuneFolder
from autoquant.searching.pair import find_plan, prepare_untimed
from tests.networks import seeded
from tests.untraceable import TokenNet, tokens

DATA = tokens(16)


def labelled(seed: int) -> tuple[Tensor, Tensor]:
    inputs = tokens(32, seed)
    return inputs, inputs[:, 1] % 4


def subject() -> Subject:
    return build_subject(
        seeded(TokenNet),
        calibration=[DATA],
        evaluation=[labelled(1)],
        heldout=None,
        metric=lambda outputs, targets: -F.cross_entropy(outputs, targets, reduction="none"),
        capture="export",
    )


def test_fine_tuning_lowers_the_loss_of_a_transformer_encoder(tmp_path: Path) -> None:
    found = subject()
    job = Job.model_validate(
        {
            "name": "tokens",
            "space": {"schemes": ["int8", "fp32"]},
            "backend": {"engine": "fbgemm"},
            "output": str(tmp_path),
            "tracking": {"enabled": False},
        }
    )
    settings = TrainingSettings(float_steps=1000, share=0.03, learning_rates=(0.003,), checks=3)
    source = [labelled(seed) for seed in range(2, 10)]
    task = make_task(settings, source, found.reader(), F.cross_entropy, None, seed=0)
    check_task(task, found)
    prepared = prepare_untimed(job, found, Silent())
    folder = FinetuneFolder(tmp_path / "tuned", resume=False)
    result = finetune_plan(
        job, task, prepared, find_plan("int8", prepared, Silent()), folder, Silent()
    )
    assert result.best.step > 0
    assert result.best.loss < result.checks[0].loss
    assert result.recovery.gain.value > 0
    with torch.no_grad():
        floats, quantized = result.model(DATA), result.quantized(DATA)
    assert 0 < float((floats - quantized).abs().max()) < 0.2 * float(floats.abs().max())
    assert isinstance(result.model, TokenNet)
    assert (tmp_path / "tuned" / "quantized.pt").stat().st_size > 0


def test_a_text_model_is_checked_and_compared_and_its_bad_cases_are_found() -> None:
    model = seeded(TokenNet)
    assert aq.check(model, DATA).ops
    compared = aq.compare(model, "int8", DATA)
    assert compared.output is not None
    assert compared.output.sqnr_db > 30


def test_it_is_diagnosed_as_healthy() -> None:
    diagnosis = aq.diagnose(seeded(TokenNet), calibration=DATA, evaluation=DATA)
    assert (diagnosis.pattern, diagnosis.findings) == (Pattern.HEALTHY, ())
