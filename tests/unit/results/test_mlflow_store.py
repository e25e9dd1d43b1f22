from __future__ import annotations

import http.server
import json
import logging
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from autoquant.core.measurement import Kind
from autoquant.core.plan import load_plan
from autoquant.core.precision import Scheme
from autoquant.errors import TrackingError
from autoquant.results.findings import Findings
from autoquant.results.mlflow.connection import resolve_uri
from autoquant.results.mlflow.entities import note_text
from autoquant.results.mlflow.store import MlflowRecorder, TrackingSettings, open_recorder
from tests.unit.results.synthetic import ENVIRONMENT, FACTS, make_candidate

PLAN = {"conv": Scheme.INT8, "fc": Scheme.FP32}
JOB = "name: digits\n"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


class BrokenServer(http.server.BaseHTTPRequestHandler):
    def send(self) -> None:
        self.send_error(500, "broken")

    def log_message(self, *_: object) -> None:
        return

    def __getattr__(self, name: str) -> Any:
        """Answer every method, `do_GET` and the others, alike."""
        if name.startswith("do_"):
            return self.send
        raise AttributeError(name)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def open_store(uri: str, name: str, **options: Any) -> MlflowRecorder:
    """Open a recorder for a search of its own within the shared store."""
    settings = TrackingSettings(uri, experiment=name, tags={"team": "vision"})
    return open_recorder(settings, replace(FACTS, search_id=name), JOB, ENVIRONMENT, **options)


def children(client: MlflowClient, recorder: MlflowRecorder) -> dict[str, Any]:
    query = f"tags.`mlflow.parentRunId` = '{recorder.run_id}'"
    runs = client.search_runs([recorder.experiment_id], query, max_results=1000)
    return {run.data.tags["autoquant.candidate"]: run for run in runs}


@pytest.mark.slow
def test_the_parent_run_holds_the_job_and_the_environment(uri: str, client: MlflowClient) -> None:
    recorder = open_store(uri, "parent")
    run = client.get_run(recorder.run_id)
    assert run.info.run_name == "digits"
    assert run.data.params["budget.trials"] == "57"
    assert run.data.params["version.torch"] == "2.13.0"
    assert run.data.tags["team"] == "vision"
    assert run.data.tags["mlflow.source.git.commit"] == "4f1c2aa"
    assert {item.path for item in client.list_artifacts(recorder.run_id)} == {
        *("job.yaml", "environment.json")
    }


def test_artifacts_lie_beside_an_sqlite_store(uri: str, client: MlflowClient) -> None:
    recorder = open_store(uri, "beside")
    folder = Path(uri.removeprefix("sqlite:///")).parent
    location = client.get_experiment(recorder.experiment_id).artifact_location
    assert location == (folder / "mlartifacts").as_uri()
    assert list(folder.glob("mlartifacts/*/artifacts/job.yaml"))


def test_a_candidate_is_a_child_run_with_its_numbers_and_kinds(
    uri: str, client: MlflowClient
) -> None:
    recorder = open_store(uri, "child")
    item = make_candidate(12, PLAN, kind=Kind.EMULATED)
    recorder.candidate(item)
    (run,) = children(client, recorder).values()
    assert run.info.run_name == "#12 tpe"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "digest": item.digest,
        "origin": "tpe",
        "ops.int8": "1",
        "ops.fp32": "1",
    }
    for name, measurement in item.measurements.items():
        assert run.data.metrics[name] == measurement.value
        assert run.data.tags[f"kind.{name}"] == measurement.kind.value
    assert run.data.metrics["accuracy_drop_stderr"] == 0.0024
    assert run.data.metrics["seconds.quality"] == 1.3
    assert json.loads(run.data.tags["plan"]) == item.plan.to_json()


def test_a_failure_is_a_failed_run_with_its_reason(
    uri: str, client: MlflowClient, findings: Findings
) -> None:
    recorder = open_store(uri, "failed")
    recorder.candidate(findings.candidates[11])
    (run,) = children(client, recorder).values()
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] == "outputs hold NaN or infinity on batch 2"


def test_a_retry_that_succeeds_takes_the_failure_back(
    uri: str, client: MlflowClient, findings: Findings
) -> None:
    open_store(uri, "retried").candidate(findings.candidates[11])
    recorder = open_store(uri, "retried")
    recorder.candidate(make_candidate(11, PLAN))
    (run,) = children(client, recorder).values()
    assert run.info.status == "FINISHED"
    assert "failure" not in run.data.tags


def test_a_later_record_updates_the_same_run(uri: str, client: MlflowClient) -> None:
    recorder = open_store(uri, "updated")
    recorder.candidate(make_candidate(0, PLAN, speedup=None))
    recorder.candidate(make_candidate(0, PLAN, speedup=1.5))
    recorder.candidate(make_candidate(0, PLAN, speedup=1.25))
    (run,) = children(client, recorder).values()
    assert run.data.metrics["speedup"] == 1.25


def test_a_resumed_search_logs_nothing_twice(uri: str, client: MlflowClient) -> None:
    first = open_store(uri, "resumed")
    first.candidate(make_candidate(0, PLAN))
    first.stop("interrupted")
    assert client.get_run(first.run_id).info.status == "KILLED"
    second = open_store(uri, "resumed")
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.candidate(make_candidate(0, PLAN))
    second.candidate(make_candidate(1, PLAN))
    assert sorted(children(client, second)) == ["0", "1"]


def test_what_a_resumed_search_changed_stands_in_tags(uri: str, client: MlflowClient) -> None:
    settings = TrackingSettings(uri, experiment="changed")
    for trials in (8, 16, 8):
        facts = replace(FACTS, search_id="changed", settings={"budget.trials": trials})
        run_id = open_recorder(settings, facts, JOB, {}).run_id
        run = client.get_run(run_id)
        assert run.data.params["budget.trials"] == "8"
        shown = run.data.tags.get("resumed.budget.trials", run.data.params["budget.trials"])
        assert shown == str(trials)


def test_two_searches_of_one_job_have_a_parent_each(uri: str) -> None:
    settings = TrackingSettings(uri, experiment="twice")
    runs = {
        open_recorder(settings, replace(FACTS, search_id=name), JOB, {}).run_id for name in "ab"
    }
    assert len(runs) == 2


@pytest.fixture(scope="module")
def finished(
    uri: str, findings: Findings, tmp_path_factory: pytest.TempPathFactory
) -> MlflowRecorder:
    folder = tmp_path_factory.mktemp("out")
    (folder / "report.html").write_text("<p>report</p>")
    weights = folder / "1.ts"
    weights.write_bytes(b"weights")
    recorder = open_store(uri, "finished")
    for item in findings.candidates[:40]:
        recorder.candidate(item)
    settled = replace(findings.facts, settings={**findings.facts.settings, "engine": "onednn"})
    missing = recorder.finish(
        replace(findings, facts=settled),
        artifacts=[folder / "report.html"],
        models={1: [weights]},
    )
    assert missing == ()
    return recorder


@pytest.mark.slow
def test_the_finish_logs_what_is_missing_and_the_heldout_values(
    client: MlflowClient, finished: MlflowRecorder, findings: Findings
) -> None:
    runs = children(client, finished)
    assert len(runs) == len(findings.candidates)
    best = findings.frontier[0]
    found = runs[str(best.number)].data.metrics["heldout_accuracy_drop"]
    assert found == best.value("heldout_accuracy_drop")


def test_the_finish_marks_the_frontier_and_keeps_its_files(
    client: MlflowClient, finished: MlflowRecorder, findings: Findings, tmp_path: Path
) -> None:
    runs = children(client, finished)
    marked = {int(n) for n, run in runs.items() if run.data.tags.get("frontier") == "true"}
    assert marked == {item.number for item in findings.frontier}
    best = runs["1"].info.run_id
    assert {item.path for item in client.list_artifacts(best)} == {"plan.json", "1.ts"}
    path = client.download_artifacts(best, "plan.json", str(tmp_path))
    assert load_plan(path) == findings.candidates[1].plan


def test_the_parents_page_shows_summary_table_and_picture(
    client: MlflowClient, finished: MlflowRecorder, findings: Findings
) -> None:
    run = client.get_run(finished.run_id)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(f"{len(findings.frontier)} of 57 candidates are worth choosing")
    assert "| speedup (measured) |" in note
    assert all(f"| {item.number} |" in note for item in findings.frontier)
    pages = [item.path for item in client.list_artifacts(finished.run_id) if "html" in item.path]
    assert pages == ["report.html"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["hypervolume"] == findings.frontier.hypervolume
    assert run.data.metrics["chosen.speedup"] == 2.94
    assert run.data.tags["kind.chosen.speedup"] == "measured"
    assert run.data.params["engine"] == "onednn"


def test_a_member_that_is_beaten_later_loses_its_mark(
    client: MlflowClient, finished: MlflowRecorder, findings: Findings
) -> None:
    kept = replace(findings.frontier, members=findings.frontier.members[1:])
    assert open_store(finished.uri, "finished").finish(replace(findings, frontier=kept)) == ()
    assert children(client, finished)["1"].data.tags["frontier"] == "false"


def test_a_note_never_outgrows_a_tag(findings: Findings) -> None:
    many = tuple(replace(findings.candidates[1], number=n) for n in range(300))
    text = note_text(replace(findings, frontier=replace(findings.frontier, members=many)))
    assert len(text) <= 8000
    assert "more members are in the report" in text


def test_a_candidate_takes_tens_of_milliseconds(uri: str) -> None:
    recorder = open_store(uri, "quick")
    spent = []
    for number in range(12):
        started = time.perf_counter()
        recorder.candidate(make_candidate(number, PLAN))
        spent.append(time.perf_counter() - started)
    # 20 to 30 ms on a quiet machine; ten times that shows a request too many.
    assert sorted(spent)[len(spent) // 2] < 0.3


@pytest.mark.slow
def test_a_store_that_fails_midway_does_not_stop_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, findings: Findings
) -> None:
    path = tmp_path / "mlflow.db"
    clock = Clock()
    recorder = open_store(f"sqlite:///{path}", "flaky", clock=clock)
    with sqlite3.connect(path) as store:
        store.execute("ALTER TABLE runs RENAME TO gone")
    with caplog.at_level(logging.WARNING, logger="autoquant.results"):
        for item in findings.candidates[:5]:
            recorder.candidate(item)
            clock.now += 61.0
    assert [
        record.levelname for record in caplog.records if record.name == "autoquant.results"
    ] == ["WARNING"]
    (gap,) = recorder.finish(findings)
    assert "lacks 57 of 57 candidates, frontier and report" in gap
    with sqlite3.connect(path) as store:
        store.execute("ALTER TABLE gone RENAME TO runs")
    assert recorder.finish(findings) == ()
    assert len(children(MlflowClient(f"sqlite:///{path}"), recorder)) == 57


@pytest.mark.slow
def test_a_store_that_fails_is_left_alone_for_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    clock = Clock()
    recorder = open_store(f"sqlite:///{path}", "flaky", clock=clock)
    with sqlite3.connect(path) as store:
        store.execute("ALTER TABLE runs RENAME TO gone")
    recorder.candidate(make_candidate(0, PLAN))
    with sqlite3.connect(path) as store:
        store.execute("ALTER TABLE gone RENAME TO runs")
    client = MlflowClient(f"sqlite:///{path}")
    recorder.candidate(make_candidate(1, PLAN))
    assert children(client, recorder) == {}
    clock.now += 61.0
    recorder.candidate(make_candidate(2, PLAN))
    assert list(children(client, recorder)) == ["2"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("mlruns", "is a folder, and MLflow 3 no longer writes to folders"),
        ("file:///tmp/mlruns", "is a folder"),
        ("redis://localhost", "unknown scheme 'redis'"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////proc/nowhere/mlflow.db", "cannot use the MLflow store"),
        ("sqlite:////dev/null/mlflow.db", "cannot use the MLflow store"),
    ],
)
def test_a_uri_that_cannot_work_is_refused_with_its_mend(wrong: str, message: str) -> None:
    with pytest.raises(TrackingError, match=message) as told:
        open_store(wrong, "wrong")
    assert told.value.hint


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database" * 100)
    with pytest.raises(TrackingError, match="file is not a database"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db", "corrupt")


def test_a_deleted_experiment_is_refused(uri: str, client: MlflowClient) -> None:
    client.delete_experiment(open_store(uri, "deleted").experiment_id)
    with pytest.raises(TrackingError, match="experiment 'deleted' was deleted"):
        open_store(uri, "deleted")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_not_there_is_said_within_seconds(scheme: str, closed_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError, match=f"{scheme}://127.0.0.1:{closed_port}") as told:
        open_store(f"{scheme}://127.0.0.1:{closed_port}/db", "unreachable")
    assert time.monotonic() - started < 120.0
    assert "tracking.enabled: false" in told.value.hint


@pytest.fixture
def broken_server() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), BrokenServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def test_a_server_that_is_broken_is_said_within_seconds(broken_server: int) -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError, match=f"127.0.0.1:{broken_server}"):
        open_store(f"http://127.0.0.1:{broken_server}", "broken")
    assert time.monotonic() - started < 120.0


def test_passwords_are_not_repeated_in_errors(closed_port: int) -> None:
    with pytest.raises(TrackingError) as told:
        open_store(f"postgresql://me:secret@127.0.0.1:{closed_port}/db", "masked")
    assert "secret" not in str(told.value)


def test_the_path_of_a_store_becomes_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"


@pytest.mark.slow
def test_a_search_prints_nothing_of_mlflows_own(tmp_path: Path) -> None:
    script = f"""
from tests.unit.results.synthetic import FACTS
from autoquant.results.mlflow.store import TrackingSettings, open_recorder
open_recorder(TrackingSettings("sqlite:///{tmp_path}/mlflow.db", "quiet"), FACTS, "", {{}})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlartifacts"}
