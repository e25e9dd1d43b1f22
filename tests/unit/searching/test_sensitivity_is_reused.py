"""A saved sensitivity table is taken over only by the model, data and settings it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.core.sensitivity import Method, Procedure
from autoquant.job import Job, SensitivitySettings, SpaceRules
from autoquant.model.building import build_subject
from autoquant.results import files
from autoquant.results.sensitivity_file import read_sensitivity, write_sensitivity
from autoquant.searching.preparing.preparation import Preparation, prepare
from autoquant.searching.ranking.ranked import rank_by_sensitivity
from tests.networks import LinearNet, seeded

SAMPLES = 32


def job_of(folder: Path, samples: int = SAMPLES, method: Procedure = Procedure.EXACT) -> Job:
    return Job(
        name="reuse",
        space=SpaceRules(schemes=(Scheme.INT8, Scheme.BF16, Scheme.FP32)),
        objectives=("output_error", "bops"),
        sensitivity=SensitivitySettings(samples=samples, method=method),
        backend={"engine": "fbgemm"},
        output=folder,
    )


def prepared_of(job: Job, data_seed: int = 0, weight: float = 1.0) -> Preparation:
    model = seeded(LinearNet)
    with torch.no_grad():
        model.get_submodule("last").weight.mul_(weight)
    inputs = torch.randn(64, 16, generator=torch.Generator().manual_seed(data_seed))
    subject = build_subject(
        model,
        calibration=torch.randn(64, 16, generator=torch.Generator().manual_seed(9)),
        evaluation=(inputs, torch.zeros(64, dtype=torch.long)),
        heldout=None,
        metric=lambda outputs, targets: (outputs.argmax(1) == targets).double(),
        capture="export",
    )
    return prepare(job, subject, Silent())


def poison(folder: Path) -> None:
    """Change the saved table, so that taking it over shows."""
    path = folder / files.SENSITIVITY
    table = read_sensitivity(path)
    write_sensitivity(path, replace(table, rows=table.rows[:1]))


def test_the_same_question_takes_the_saved_table_over(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    rank_by_sensitivity(job.sensitivity, prepared_of(job), Silent(), tmp_path)
    poison(tmp_path)
    assert len(rank_by_sensitivity(job.sensitivity, prepared_of(job), Silent(), tmp_path).rows) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda job: (job, prepared_of(job, data_seed=1)),
        lambda job: (job, prepared_of(job, weight=2.0)),
        lambda job: (other := job_of(job.output, samples=16), prepared_of(other)),
        lambda job: (other := job_of(job.output, method=Procedure.GRADIENT), prepared_of(other)),
    ],
    ids=["data", "weights", "samples", "method"],
)
def test_another_question_is_measured_again(
    tmp_path: Path, change: Callable[[Job], tuple[Job, Preparation]]
) -> None:
    job = job_of(tmp_path)
    rank_by_sensitivity(job.sensitivity, prepared_of(job), Silent(), tmp_path)
    poison(tmp_path)
    other, prepared = change(job)
    assert len(rank_by_sensitivity(other.sensitivity, prepared, Silent(), tmp_path).rows) > 1


def test_a_table_cut_off_half_way_goes_on(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    prepared = prepared_of(job)
    whole = rank_by_sensitivity(job.sensitivity, prepared, Silent(), tmp_path)
    (tmp_path / files.SENSITIVITY).unlink()
    mark = 123.0  # a number that no measurement gives shows which row was taken over
    first = replace(whole.rows[0], noise=mark)
    write_sensitivity(tmp_path / files.SENSITIVITY_UNFINISHED, replace(whole, rows=(first,)))
    resumed = rank_by_sensitivity(job.sensitivity, prepared, Silent(), tmp_path)
    assert resumed.rows == (first, *whole.rows[1:])
    assert not (tmp_path / files.SENSITIVITY_UNFINISHED).exists()
    assert {row.method for row in resumed.rows} == {Method.EXACT}
