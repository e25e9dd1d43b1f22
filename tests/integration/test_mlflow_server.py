"""An MLflow server on PostgreSQL that keeps artifacts, and is killed in the middle of a search.

It needs PostgreSQL's own programs and its driver (Debian: postgresql and python3-psycopg2).
With `AUTOQUANT_LONG=1` the server is away for a minute.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from autoquant.results.history import read_history
from tests.integration.conftest import ROOT, WriteJob, command

AWAY_S = 60.0 if os.environ.get("AUTOQUANT_LONG") else 2.0
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_QUIETLY = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
SYSTEM = Path("/usr/lib/python3/dist-packages")


def driver() -> Path | None:
    """Where the driver of PostgreSQL lies; None: there is none for this Python."""
    found = importlib.util.find_spec("psycopg2")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}-"
    of_system = SYSTEM / "psycopg2"
    return of_system if any(tag in item.name for item in of_system.glob("*.so")) else None


def why_not() -> str | None:
    if not PROGRAMS:
        return "PostgreSQL is not installed"
    if driver() is None:
        return "psycopg2 is not installed for this Python"
    return None


pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@contextmanager
def running(
    arguments: Sequence[str], port: int, log: Path, path: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(
            arguments,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, **_QUIETLY},
        )
    try:
        wait_for_port(port, process, log)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def database() -> Iterator[str]:
    """The address of an empty PostgreSQL; its server refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="aq-pg-", dir="/tmp"))
    become = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    port = free_port()
    make = [*become, str(PROGRAMS[0] / "initdb"), "-D", str(folder / "data"), "-U", "aq", "-A"]
    subprocess.run([*make, "trust"], check=True, capture_output=True, cwd="/")
    serve = [str(PROGRAMS[0] / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
    try:
        with running([*become, *serve, "-p", str(port)], port, folder.with_suffix(".log")):
            yield f"postgresql+psycopg2://aq@127.0.0.1:{port}/postgres"
    finally:
        folder.with_suffix(".log").unlink()
        shutil.rmtree(folder)


@contextmanager
def serving(database: str, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server that stores in a database and hands artifacts on."""
    found = driver()
    assert found is not None
    (folder / "driver").mkdir(exist_ok=True)
    if not (folder / "driver" / "psycopg2").exists():
        (folder / "driver" / "psycopg2").symlink_to(found)
    serve = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    serve += ["--backend-store-uri", database, "--workers", "1"]
    serve += ["--artifacts-destination", str(folder / "kept")]
    with running(serve, port, folder / "server.log", str(folder / "driver")) as process:
        MlflowClient(f"http://127.0.0.1:{port}").search_experiments()  # its first answer is slow
        yield process


def waiting(job: Path, held: Path) -> Path:
    """Have the metric wait while a file is there."""
    source = f"""
import time
from pathlib import Path
from autoquant.metrics import accuracy

def waits(outputs, targets):
    while Path({str(held)!r}).exists():
        time.sleep(0.05)
    return accuracy(outputs, targets)
"""
    (job.parent / "waits.py").write_text(source)
    job.write_text(job.read_text().replace("metric: accuracy", "metric: waits.py:waits"))
    return job


def test_a_server_that_is_killed_and_comes_back_lacks_nothing_at_the_end(
    write_quick_job: WriteJob, tmp_path: Path, database: str
) -> None:
    port, held, folder = free_port(), tmp_path / "held", tmp_path / "search"
    uri = f"http://127.0.0.1:{port}"
    job = write_quick_job(
        "search", tracking={"enabled": True, "uri": uri}, budget={"trials": 8, "round_size": 4}
    )

    def measured(count: int) -> None:
        deadline = time.monotonic() + 300
        while len(read_history(folder / "history.jsonl")) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with serving(database, tmp_path, port) as server:
        process = subprocess.Popen(
            command("search", str(waiting(job, held))),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        measured(1)
        held.touch()
        os.killpg(server.pid, signal.SIGKILL)
        held.unlink()
        measured(3)  # the store refuses the second or third, and the search goes on
        held.touch()
        time.sleep(AWAY_S)
    with serving(database, tmp_path, port):
        held.unlink()
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert "the search goes on" in errors
        client = MlflowClient(uri)
        (experiment,) = [item for item in client.search_experiments() if item.name != "Default"]
        runs = client.search_runs([experiment.experiment_id])
        parent = next(run for run in runs if "autoquant.search_id" in run.data.tags)
        kept = {str(item.path) for item in client.list_artifacts(parent.info.run_id)}
    assert parent.info.status == "FINISHED"
    assert parent.info.artifact_uri.startswith("mlflow-artifacts:")
    assert len(runs) - 1 == len(read_history(folder / "history.jsonl"))
    assert {"job.yaml", "frontier.json", "report.html"} <= kept
    assert list((tmp_path / "kept").rglob("report.html"))
