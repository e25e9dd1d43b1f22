"""Ray workers that die, refuse or cannot be reached."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from autoquant.core.evaluation import Outcome, Phase, Task
from autoquant.core.measurement import Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import DataError, ExecutionError
from autoquant.job import Execution
from autoquant.searching.measuring.workers.ray_connection import connect
from autoquant.searching.measuring.workers.start import start_executor

PLAN = Plan.of({"a": Scheme.INT8})


@dataclass(frozen=True)
class Mortal:
    """Kills its own process: always on task 9, on task 1 the first time only."""

    folder: str

    def __call__(self) -> Mortal:
        return self

    def run(self, phase: Phase, task: Task) -> Outcome:
        mark = Path(self.folder) / str(task.number)
        if task.number == 9 or (task.number == 1 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(task.number, {phase.value: Measurement(1.0, Kind.MEASURED)})


@dataclass(frozen=True)
class Unusable:
    """A factory that refuses."""

    def __call__(self) -> Mortal:
        raise DataError("calibration batch 3 holds NaN", hint="clean the data")


@dataclass(frozen=True)
class MortalAtFirst:
    """A factory that kills the first process that calls it."""

    folder: str

    def __call__(self) -> Mortal:
        mark = Path(self.folder) / "loaded"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Mortal(self.folder)


@pytest.fixture(autouse=True, scope="module")
def shared_ray() -> Iterator[None]:
    connect(Execution(workers=2))
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_killed_workers_task_is_tried_again_and_the_rest_go_on(tmp_path: Path) -> None:
    executor = start_executor(Execution(workers=2), Mortal(str(tmp_path)))
    found = list(executor.run(Phase.QUALITY, [Task(number, PLAN) for number in range(6)]))
    executor.close()
    assert sorted(item.number for item in found) == [0, 1, 2, 3, 4, 5]
    assert all(item.failure is None for item in found)
    assert (tmp_path / "1").exists()


@pytest.mark.slow
def test_another_is_hired_for_a_worker_that_dies_while_it_loads(tmp_path: Path) -> None:
    executor = start_executor(Execution(workers=1), MortalAtFirst(str(tmp_path)))
    try:
        found = list(executor.run(Phase.QUALITY, [Task(3, PLAN)]))
    finally:
        executor.close()
    assert [outcome.failure for outcome in found] == [None]


@pytest.mark.slow
def test_a_task_that_always_kills_its_worker_fails_as_transient(tmp_path: Path) -> None:
    executor = start_executor(Execution(workers=1, retries=1), Mortal(str(tmp_path)))
    found = {o.number: o for o in executor.run(Phase.QUALITY, [Task(9, PLAN), Task(2, PLAN)])}
    executor.close()
    assert found[2].failure is None
    failure = found[9].failure
    assert failure is not None
    assert failure.transient
    assert failure.reason.startswith("its worker died 2 times")


def test_a_factorys_mistake_is_raised_as_itself() -> None:
    with pytest.raises(DataError, match="batch 3 holds NaN") as caught:
        start_executor(Execution(workers=1), Unusable())
    assert caught.value.hint == "clean the data"


def test_more_cpus_than_the_cluster_has_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"3 workers need 6 CPUs.*Ray has 2"):
        start_executor(Execution(workers=3, cpus_per_worker=2), Mortal(str(tmp_path)))


@pytest.mark.slow
def test_a_cluster_of_its_own_that_is_too_small_is_stopped(tmp_path: Path) -> None:
    ray.shutdown()
    with pytest.raises(ExecutionError, match="1000 GPUs"):
        start_executor(Execution(workers=1, gpus_per_worker=1000), Mortal(str(tmp_path)))
    assert not ray.is_initialized()


def test_an_address_where_nobody_listens_fails_within_seconds(tmp_path: Path) -> None:
    ray.shutdown()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ExecutionError, match="cannot be reached") as caught:
        start_executor(Execution(address=f"127.0.0.1:{port}"), Mortal(str(tmp_path)))
    assert "ray start --head" in caught.value.hint
    assert time.monotonic() - started < 240


@dataclass(frozen=True)
class Stuck:
    """Never ends task 1."""

    def __call__(self) -> Stuck:
        return self

    def run(self, phase: Phase, task: Task) -> Outcome:
        while task.number == 1:
            time.sleep(0.05)
        return Outcome(task.number, {phase.value: Measurement(1.0, Kind.MEASURED)})


@pytest.mark.slow
def test_a_task_that_never_ends_is_stopped_and_the_rest_go_on() -> None:
    executor = start_executor(Execution(workers=1, timeout=3.0), Stuck())
    found = {o.number: o for o in executor.run(Phase.QUALITY, [Task(n, PLAN) for n in range(4)])}
    executor.close()
    failure = found[1].failure
    assert failure is not None
    assert failure.reason.startswith("its quality took longer than 3 s (execution.timeout)")
    assert all(found[number].failure is None for number in (0, 2, 3))


@pytest.mark.slow
def test_when_the_time_is_up_nothing_is_waited_for() -> None:
    executor = start_executor(Execution(workers=1), Stuck())
    started = time.monotonic()
    found = list(
        executor.run(
            Phase.QUALITY,
            [Task(number, PLAN) for number in range(4)],
            lambda: time.monotonic() > started + 2,
        )
    )
    assert [item.number for item in found] == [0]
    later = list(executor.run(Phase.HELDOUT, [Task(7, PLAN)]))
    executor.close()
    assert [item.failure for item in later] == [None]


@pytest.mark.slow
def test_the_own_cluster_starts_without_a_word_keeps_its_token_and_listens_on_loopback_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.77:6379")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    executor = start_executor(Execution(workers=1), Stuck())
    try:
        assert caplog.text == ""
        assert os.environ.get("RAY_AUTH_MODE") != "disabled"
        assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
        below = {str(os.getpid())}
        listed = subprocess.run(
            ["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        )
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        for _ in range(5):
            below |= {process for process, parent, *_ in rows if parent in below}
        ours = [title[0] for process, _, *title in rows if process in below and title]
        assert [title for title in ours if title.startswith("ray::Worker")]
        needless = ("ray::IDLE", "monitor.py", "dashboard.py")
        assert not [title for title in ours if any(part in title for part in needless)]
        sockets = {
            str(link.readlink())
            for process in below
            for link in Path(f"/proc/{process}/fd").glob("*")
            if link.is_symlink() and str(link.readlink()).startswith("socket:")
        }
        bound = [
            row.split()[1]
            for table in ("tcp", "tcp6")
            for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if row.split()[3] == "0A" and f"socket:[{row.split()[9]}]" in sockets
        ]
        hosts = {place.partition(":")[0] for place in bound}
        assert hosts
        assert hosts <= {
            "0100007F",
            "0000000000000000FFFF00000100007F",
            "00000000000000000000000001000000",
        }
    finally:
        executor.close()
