"""However a search ends, its frontier, its report and MLflow's end state are written."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import autoquant as aq
from autoquant.core.history import StopReason
from autoquant.core.progress import Advance, Silent
from autoquant.errors import ExecutionError
from tests import faulty
from tests.integration.bad_inputs.stage import search

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Breaking(Silent):
    """Something breaks in when a stage begins."""

    def __init__(self, title: str, error: BaseException) -> None:
        self.title, self.error = title, error

    def stage(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        if title == self.title:
            raise self.error
        return super().stage(title, total)


def state_in_mlflow(uri: str) -> str:
    client = MlflowClient(uri)
    (experiment,) = [item for item in client.search_experiments() if item.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    return next(str(run.info.status) for run in runs if "autoquant.search_id" in run.data.tags)


def test_a_search_in_which_no_plan_ever_worked_is_written_before_its_error(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(ExecutionError, match="all 2 candidates failed"):
        search(
            model=faulty.ratio_model(),
            calibration=faulty.steps(),
            evaluation=faulty.steps(),
            space={"schemes": ["int8", "int8_dynamic"]},
            output=tmp_path / "out",
            tracking_uri=uri,
        )
    result = aq.load_result(tmp_path / "out")
    assert result.stopped is StopReason.FAILED
    assert len(result.frontier) == 0
    assert [item.failure is not None for item in result.candidates] == [True, True]
    assert "candidates failed" in (tmp_path / "out" / "report.html").read_text()
    assert state_in_mlflow(uri) == "KILLED"


@pytest.mark.parametrize("title", ["1 of 3: uniform plans", "measuring sensitivity"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), StopReason.INTERRUPTED),
        (ExecutionError("Ray is gone"), StopReason.FAILED),
    ],
    ids=["interrupted", "lost"],
)
def test_what_breaks_in_between_rounds_keeps_what_is_finished(
    tmp_path: Path, title: str, error: BaseException, reason: StopReason
) -> None:
    settings = {"output": tmp_path / "out", "trials": 6}
    if isinstance(error, KeyboardInterrupt):
        search(**settings, progress=Breaking(title, error))
    else:
        with pytest.raises(ExecutionError, match="Ray is gone"):
            search(**settings, progress=Breaking(title, error))
    result = aq.load_result(tmp_path / "out")
    assert result.stopped is reason
    assert (len(result.frontier) > 0) == (title == "measuring sensitivity")
    assert (tmp_path / "out" / "report.html").exists()
    resumed = search(**settings, resume=True)
    assert resumed.stopped not in (StopReason.INTERRUPTED, StopReason.FAILED)
    assert len(resumed.frontier) > 0
