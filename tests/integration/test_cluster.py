"""A real cluster of network namespaces: the job travels, nodes are lost and come back."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import autoquant as aq
from autoquant.results.forms import ENVIRONMENT
from tests.cluster import Cluster, why_not
from tests.integration.conftest import ROOT, WriteJob

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

_DRIVER = """
import itertools, json, sys, threading, time
import ray
from autoquant.core.evaluation import Outcome, Phase, Task
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.readback import Ran
from autoquant.errors import ExecutionError
from autoquant.job import Execution
from autoquant.searching.measuring.workers.start import start_executor

class Slow:
    def __call__(self):
        return self
    def run(self, phase, task):
        time.sleep(0.2)
        host = ray.util.get_node_ip_address()
        return Outcome(task.number, executed={"a": Ran(None, kernel=host)})

def say(**what):
    print(json.dumps(what), flush=True)

asked = json.loads(sys.argv[1])
phase, enough = Phase(asked.pop("phase")), threading.Event()

def listen():
    sys.stdin.readline()
    enough.set()

threading.Thread(target=listen, daemon=True).start()
try:
    executor = start_executor(Execution(**asked), Slow(), lambda text: say(note=text))
    say(ready=True)
    numbers = itertools.takewhile(lambda number: not enough.is_set(), itertools.count())
    tasks = (Task(number, Plan.of({"a": Scheme.INT8})) for number in numbers)
    for outcome in executor.run(phase, tasks):
        failure = outcome.failure and outcome.failure.reason
        say(number=outcome.number, host=str(outcome.executed), failure=failure)
    executor.close()
except ExecutionError as error:
    say(error=error.message, hint=error.hint)
"""


@dataclass(frozen=True)
class Driver:
    """A controller on the head that gives tasks to workers, and says what becomes of them."""

    process: subprocess.Popen[str]

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, as it says it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        assert self.process.wait() == 0, self.process.communicate()

    def rest(self, lines: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
        """What it says of the last tasks."""
        assert self.process.stdin is not None
        self.process.stdin.write("enough\n")
        self.process.stdin.flush()
        return list(lines)

    def until(self, lines: Iterator[dict[str, Any]], key: str, text: str) -> list[dict[str, Any]]:
        """What it says up to a line of which a key holds a text."""
        seen = []
        for line in lines:
            seen.append(line)
            if text in str(line.get(key, "")):
                return seen
        raise AssertionError(seen)


def drive(cluster: Cluster, environment: dict[str, str] | None = None, **asked: Any) -> Driver:
    asked = {"phase": "quality", "address": cluster.address, **asked}
    return Driver(cluster.command("-c", _DRIVER, json.dumps(asked), environment=environment))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head and two nodes of one CPU each; the nodes have neither the package nor the job."""
    if Path(sys.prefix).resolve().is_relative_to("/tmp"):
        pytest.skip("Python is below /tmp, of which the nodes have one of their own")
    found = importlib.util.find_spec("autoquant")
    assert found is not None
    assert found.origin is not None
    installed = subprocess.run(
        ["python", "-c", "import autoquant; print(autoquant.__file__)"],
        cwd="/",
        env={"PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    files = {found.origin, installed} - {""}
    hidden = {Path(file).resolve().parent for file in files} | {ROOT / "tests"}
    made = Cluster(sorted(hidden), tmp_path_factory.mktemp("logs"))
    try:
        made.start("head")
        made.start("node1")
        made.start("node2", resources='{"bench": 1}')
        made.wait_for_nodes(3)
        yield made
    finally:
        made.stop()


def test_a_job_travels_to_nodes_that_never_saw_it(
    cluster: Cluster, write_quick_job: WriteJob, tmp_path: Path
) -> None:
    job = write_quick_job(
        "travels",
        budget={"effort": "quick"},
        objectives=["output_error", "latency"],
        execution={
            "kind": "ray",
            "address": cluster.address,
            "workers": 2,
            "target": {"resource": "bench"},
        },
    )
    for file in (ROOT / "tests" / "networks.py", ROOT / "autoquant" / "errors.py", job):
        assert cluster.lacks("node1", file)
    process = cluster.command("-m", "autoquant", "search", str(job))
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    result = aq.load_result(tmp_path / "travels")
    assert len(result.frontier) > 0
    assert [item.failure for item in result.candidates] == [None] * len(result.candidates)
    assert ENVIRONMENT.load(tmp_path / "travels")["timed_on"]["host"] == "node2"
    assert "node2" in (tmp_path / "travels" / "report.html").read_text()


def test_nodes_are_lost_and_come_back(cluster: Cluster) -> None:
    driver = drive(cluster, workers=2)
    lines = driver.lines()
    seen = driver.until(lines, "number", "9")
    used = str([line.get("host") for line in seen])
    (lost,) = [name for name in ("node1", "node2") if cluster.host(name) in used]
    other = "node2" if lost == "node1" else "node1"
    cluster.kill(lost)  # there is room elsewhere
    seen += driver.until(lines, "host", cluster.host(other))
    cluster.kill(other)  # there is none now
    seen += driver.until(lines, "note", "1 of 2 workers are gone, and no node has room for others")
    cluster.start(lost)
    seen += driver.until(lines, "note", "all 2 workers are there again")
    seen += driver.until(lines, "host", cluster.host(lost))
    cluster.pull_cable(lost)
    seen += driver.until(lines, "note", "1 of 2 workers are gone")
    seen += driver.rest(lines)
    cluster.kill(lost)
    for name in (lost, other):
        cluster.start(name, resources='{"bench": 1}' if name == "node2" else "{}")
    cluster.wait_for_nodes(3)
    assert_all_done(seen)


def test_the_target_node_is_waited_for_and_no_longer_than_stated(cluster: Cluster) -> None:
    driver = drive(
        cluster, workers=1, phase="latency", target={"resource": "bench"}, wait=40, retries=0
    )
    lines = driver.lines()
    seen = driver.until(lines, "number", "3")
    cluster.kill("node2")
    seen += driver.until(lines, "note", "waiting for one, 40 s at most (execution.wait)")
    cluster.start("node2", resources='{"bench": 1}')
    seen += driver.until(lines, "number", str(len(seen) + 3))
    assert all(cluster.host("node2") in line["host"] for line in seen if "host" in line)
    assert_all_done(seen)
    cluster.kill("node2")
    seen = driver.until(lines, "error", "the target node is lost, and none came in its place")
    assert "--resume" in seen[-1]["hint"]


def test_a_target_that_no_node_is_shows_when_the_cluster_is_joined(cluster: Cluster) -> None:
    driver = drive(cluster, workers=1, target={"label": {"cpu": "z80"}})
    driver.until(driver.lines(), "error", "no node of the cluster has the labels {'cpu': 'z80'}")


def assert_all_done(seen: list[dict[str, Any]]) -> None:
    """Each task has one outcome, and none failed."""
    numbers = [line["number"] for line in seen if "number" in line]
    assert sorted(numbers) == list(range(len(numbers)))
    assert not any(line.get("failure") for line in seen)


def test_a_wrong_token_is_refused_before_the_model_is_loaded(
    cluster: Cluster, write_quick_job: WriteJob
) -> None:
    job = write_quick_job(
        "wrong", execution={"kind": "ray", "address": cluster.address, "workers": 3}
    )
    job.write_text(job.read_text().replace("entry.py:model", "entry.py:batches"))
    process = cluster.command(
        *("-m", "autoquant", "search", str(job)),
        environment={"RAY_AUTH_TOKEN": "f" * 32},
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "refuses the token" in " ".join(errors.split())
    assert "Traceback" not in errors
