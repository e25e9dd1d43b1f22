"""Every job file of the experiments is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoquant.job import load_job
from autoquant.model.data.entry_points import load_entry

FILES = sorted((Path(__file__).parents[3] / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_job_file_loads_and_its_entry_points_exist(path: Path) -> None:
    job = load_job(path)
    assert job.model is not None
    assert job.data is not None
    assert job.data.heldout is not None
    for entry in (job.data.calibration, job.data.evaluation, job.data.heldout, job.data.metric):
        assert callable(load_entry(entry.entry))
    assert callable(load_entry(job.model.entry))
    if job.finetune is not None:
        assert callable(load_entry(job.finetune.data.entry))
        assert callable(load_entry(job.finetune.loss.entry))


def test_no_two_experiments_write_to_one_folder() -> None:
    outputs = [load_job(path).output for path in FILES]
    assert len(set(outputs)) == len(FILES) >= 3
