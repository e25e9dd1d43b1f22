"""What every recorder must do, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from autoquant.core.history import Recorder
from autoquant.core.measurement import Candidate, Failure
from autoquant.core.precision import Scheme
from autoquant.results.folder import ResultFolder
from autoquant.results.mlflow.store import TrackingSettings, open_recorder
from autoquant.results.recorders import JointRecorder
from tests.unit.results.synthetic import FACTS, make_candidate

PLAN = {"conv": Scheme.INT8, "fc": Scheme.FP32}
Kept = Callable[[], Mapping[int, tuple[float | None, bool]]]


@contextmanager
def folder(path: Path) -> Iterator[tuple[Recorder, Kept]]:
    exists = (path / "history.jsonl").exists()
    opened = ResultFolder.resume(path) if exists else ResultFolder.create(path)

    def kept() -> Mapping[int, tuple[float | None, bool]]:
        return {
            item.number: (
                item.value("speedup") if "speedup" in item.measurements else None,
                item.failure is not None,
            )
            for item in opened.past().candidates
        }

    with closing(opened):
        yield opened, kept


@contextmanager
def mlflow(path: Path) -> Iterator[tuple[Recorder, Kept]]:
    uri = f"sqlite:///{path}/mlflow.db"
    opened = open_recorder(TrackingSettings(uri, "contract"), FACTS, "", {})

    def kept() -> Mapping[int, tuple[float | None, bool]]:
        query = f"tags.`mlflow.parentRunId` = '{opened.run_id}'"
        runs = MlflowClient(uri).search_runs([opened.experiment_id], query)
        return {
            int(run.data.tags["autoquant.candidate"]): (
                run.data.metrics.get("speedup"),
                run.info.status == "FAILED",
            )
            for run in runs
        }

    yield opened, kept


@contextmanager
def both(path: Path) -> Iterator[tuple[Recorder, Kept]]:
    with folder(path) as (first, first_kept), mlflow(path) as (second, second_kept):

        def kept() -> Mapping[int, tuple[float | None, bool]]:
            assert first_kept() == second_kept()
            return first_kept()

        yield JointRecorder([first, second]), kept


RECORDERS = {"folder": folder, "mlflow": mlflow, "both": both}


@pytest.fixture(params=RECORDERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def failed(number: int) -> Candidate:
    item = make_candidate(number, PLAN)
    return replace(item, measurements={}, failure=Failure("a worker died", transient=True))


def test_candidates_and_failures_are_kept(tmp_path: Path, kind: str) -> None:
    with RECORDERS[kind](tmp_path) as (recorder, kept):
        recorder.candidate(make_candidate(0, PLAN, speedup=2.0))
        recorder.candidate(failed(1))
        assert kept() == {0: (2.0, False), 1: (None, True)}


def test_the_same_number_again_replaces_what_was_kept(tmp_path: Path, kind: str) -> None:
    with RECORDERS[kind](tmp_path) as (recorder, kept):
        recorder.candidate(failed(0))
        recorder.candidate(make_candidate(0, PLAN, speedup=None))
        recorder.candidate(make_candidate(0, PLAN, speedup=2.0))
        assert kept() == {0: (2.0, False)}


def test_numbers_may_come_in_any_order(tmp_path: Path, kind: str) -> None:
    with RECORDERS[kind](tmp_path) as (recorder, kept):
        for number in (4, 0, 2):
            recorder.candidate(make_candidate(number, PLAN))
        assert sorted(kept()) == [0, 2, 4]


def test_a_reopened_recorder_goes_on(tmp_path: Path, kind: str) -> None:
    with suppress(KeyboardInterrupt), RECORDERS[kind](tmp_path) as (recorder, _):
        recorder.candidate(make_candidate(0, PLAN, speedup=1.0))
        raise KeyboardInterrupt
    with RECORDERS[kind](tmp_path) as (recorder, kept):
        recorder.candidate(make_candidate(0, PLAN, speedup=3.0))
        recorder.candidate(make_candidate(1, PLAN, speedup=2.0))
        assert kept() == {0: (3.0, False), 1: (2.0, False)}
