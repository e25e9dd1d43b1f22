"""The documented `ray job submit`, on a real cluster of one node that asks for a token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, WriteJob, command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        find_spec("aiohttp_cors") is None, reason="no ray[default], which has the job server"
    ),
]
RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
TOKEN = "a-token-of-the-test"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    scratch = tempfile.mkdtemp(prefix="rj", dir="/tmp")  # paths of sockets must be short
    yield {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_TMPDIR": scratch,
        "PYTHONPATH": str(ROOT),
    }
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[str]:
    """Address of the job server of a head that is there for this test."""
    port, dashboard = free_port(), free_port()
    words = [
        *("start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"),
        *(f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
    ]
    with subprocess.Popen(
        [*RAY, *words], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    ) as head:
        try:
            address = f"http://127.0.0.1:{dashboard}"
            wait_for(address)
            yield address
        finally:
            os.killpg(head.pid, signal.SIGTERM)


def wait_for(address: str) -> None:
    asked = urllib.request.Request(
        f"{address}/api/version", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    until = time.monotonic() + 120.0
    while not answers(asked):
        assert time.monotonic() < until, "no job server"
        time.sleep(0.5)


def answers(asked: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(asked, timeout=5):
            return True
    except OSError:
        return False


def test_the_documented_command_runs_a_search_as_a_job_of_ray(
    server: str, environment: dict[str, str], write_quick_job: WriteJob, tmp_path: Path
) -> None:
    job = write_quick_job(
        "job", budget={"trials": 6, "round_size": 3}, execution={"kind": "ray", "workers": 1}
    )
    output = tmp_path / "found"
    submit = ["job", "submit", "--address", server, "--working-dir", str(job.parent), "--"]
    search = command("search", job.name, "--set", "execution.address=auto")
    done = subprocess.run(
        [*RAY, *submit, *search, "--set", f"output={output}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "succeeded" in done.stdout + done.stderr
    assert json.loads((output / "frontier.json").read_text())["stopped"] == "budget"
