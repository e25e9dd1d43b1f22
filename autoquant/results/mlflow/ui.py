"""The MLflow UI on loopback, for reviewing a store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from autoquant.core.secrets import masked
from autoquant.errors import TrackingError
from autoquant.results.mlflow.connection import connect, refusals, resolve_uri
from autoquant.results.mlflow.runs import find_last_search
from autoquant.results.mlflow.view import Pages, pages_of

_HOST = "127.0.0.1"
_START_SECONDS = 300.0
_POLL_SECONDS = 0.25
_LAST_LINES = 5
_STORE = "MLFLOW_BACKEND_STORE_URI"
_NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Eight processes less: they wait for evaluations of language models, which no search asks for."""


@dataclass(slots=True)
class RunningUi:
    """A UI that answers.

    Attributes:
        url: Where to open it.
        process: The server; None where the store is a server itself.
    """

    url: str
    process: subprocess.Popen[bytes] | None = None

    def wait(self) -> int:
        """Wait until the server ends; gives its exit status."""
        return self.process.wait() if self.process else 0

    def close(self) -> None:
        """Stop the server; may be called again."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()  # it waits for that, and takes its children along
            self.process.wait()


def ui_command(module: str, port: int) -> list[str]:
    """Give the command that serves a UI on loopback; the store is named by the environment."""
    return [
        *(sys.executable, "-m", module, "ui"),
        *("--host", _HOST, "--port", str(port), "--workers", "1"),
    ]


def start_ui(uri: str, port: int = 5000, *, patience_s: float = _START_SECONDS) -> RunningUi:
    """Serve a store's UI on loopback, and wait until it answers.

    Args:
        uri: Of the store; that of an MLflow server is only handed back.
        port: Tried first; a free one is taken where it is in use.
        patience_s: How long to wait.
    """
    resolved = resolve_uri(uri)
    if resolved.startswith(("http://", "https://")):
        return RunningUi(resolved)
    _check_file(resolved)
    chosen = _free_port(port)
    with tempfile.TemporaryFile() as log:
        running = RunningUi(
            f"http://{_HOST}:{chosen}",
            subprocess.Popen(
                ui_command("autoquant.results.mlflow.serving", chosen),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **_NO_JOBS,
                    **os.environ,
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    _STORE: resolved,
                    "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
                },
            ),
        )
        try:
            _wait_for(running, patience_s)
        except TimeoutError as error:
            running.close()
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise TrackingError(
                f"the MLflow UI for {masked(uri)} does not start: {_tail(lines)}",
                hint=f"try the command itself: {_STORE}={masked(resolved)} "
                + " ".join(ui_command("mlflow", chosen)),
            ) from error
        except BaseException:
            running.close()
            raise
    return running


def experiment_pages(url: str, uri: str, experiment: str) -> Pages:
    """Where a UI shows an experiment; its first page where the store knows of none.

    Raises:
        TrackingError: The store cannot be reached.
    """
    client = connect(resolve_uri(uri))
    with refusals(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return Pages(url)
        last = find_last_search(client, found.experiment_id)
    return pages_of(url, found, last)


def _check_file(uri: str) -> None:
    """See that an SQLite store exists: MLflow would show an empty new one."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        raise TrackingError(
            f"no MLflow store at {path}",
            hint="run a search first, or give the job file or result folder whose store you mean",
        )


def _free_port(port: int) -> int:
    """Give the port if nobody listens on it, else one that the system picks."""
    for wanted in (port, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if _binds(trial, wanted):
                return int(trial.getsockname()[1])
    raise TrackingError("no free port on 127.0.0.1", hint="stop a server that you do not need")


def _binds(trial: socket.socket, port: int) -> bool:
    try:
        trial.bind((_HOST, port))
    except OSError:
        return False
    return True


def _wait_for(running: RunningUi, patience_s: float) -> None:
    """Wait until the server answers.

    Raises:
        TimeoutError: It ended, or does not answer in time.
    """
    deadline = time.monotonic() + patience_s
    while not _answers(running.url):
        ended = running.process is not None and running.process.poll() is not None
        if ended or time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=10.0) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _tail(lines: Sequence[str]) -> str:
    return masked(" / ".join(lines[-_LAST_LINES:])) or "no output"
