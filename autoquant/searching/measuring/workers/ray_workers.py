"""Evaluations on Ray workers: one actor each, replaced when its process dies."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoquant.core.evaluation import Evaluator, EvaluatorFactory, Outcome, Phase, Task
from autoquant.core.measurement import Failure
from autoquant.errors import AutoquantError, ExecutionError
from autoquant.job import Execution
from autoquant.searching.measuring.workers.local import run_safely
from autoquant.searching.measuring.workers.ray_address import check_address, unreachable

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import ray  # reads the environment when imported

_IN_FLIGHT = 2
_TOKEN_NOTICE = "ray._private.authentication.authentication_token_setup"
"""Logs at every start, as a warning, that Ray keeps strangers out of the cluster."""


class Worker:
    """One evaluator in a process of its own."""

    def __init__(self, factory: EvaluatorFactory) -> None:
        self._factory = factory
        self._evaluator: Evaluator | None = None

    def load(self) -> None:
        """Load the subject, raising what the factory raises; a constructor would lose it."""
        self._evaluator = self._factory()

    def run(self, phase: Phase, task: Task) -> Outcome:
        """Do one phase of one task."""
        if self._evaluator is None:
            self._evaluator = self._factory()
        return run_safely(self._evaluator, phase, task)


@dataclass(slots=True)
class _Seat:
    """A place for a worker, and what it is doing, oldest first."""

    actor: Any
    running: dict[Any, Task] = field(default_factory=dict)


class RayExecutor:
    """Spreads tasks over actors, and retries those whose worker died.

    Args:
        factory: Gives a worker its evaluator.
        execution: Address, workers, resources of each, retries.

    Raises:
        ExecutionError: Ray cannot be reached, or has fewer resources than asked for.
        AutoquantError: What the factory raised in a worker.
    """

    def __init__(self, factory: EvaluatorFactory, execution: Execution) -> None:
        self._execution = execution
        self._owns_ray = _connect(execution)
        self._factory = ray.put(factory)
        self._attempts: dict[tuple[Phase, int], int] = {}
        self._seats: list[_Seat] = []
        try:
            self._seats = [_Seat(self._hire()) for _ in range(execution.workers)]
            self._await_workers()
        except BaseException:
            self.close()
            raise

    def run(self, phase: Phase, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Give the outcomes as they come; a latency phase keeps all but one worker idle."""
        seats = self._seats[:1] if phase is Phase.LATENCY else self._seats
        depth = 1 if phase is Phase.LATENCY else _IN_FLIGHT
        source, waiting = iter(tasks), deque[Task]()
        drained = False
        try:
            while True:
                drained = self._fill(seats, depth, phase, source, waiting, drained)
                if not any(seat.running for seat in seats):
                    if drained and not waiting:
                        return
                    continue
                yield from self._collect(seats, phase, waiting, wait=True)
        finally:
            for seat in seats:
                seat.running.clear()

    def close(self) -> None:
        """Stop the workers, and Ray where this executor started it."""
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats = []
        if self._owns_ray:
            ray.shutdown()

    def _fill(
        self,
        seats: list[_Seat],
        depth: int,
        phase: Phase,
        source: Iterator[Task],
        waiting: deque[Task],
        drained: bool,
    ) -> bool:
        """Give every worker something to do; True when the source is empty.

        A task is submitted as soon as it is drawn: drawing may take a while, and the workers
        need not wait for the rest.
        """
        while True:
            seat = min(seats, key=lambda item: len(item.running))
            if len(seat.running) >= depth:
                return drained
            if waiting:
                task = waiting.popleft()
            elif drained:
                return True
            else:
                drawn = next(source, None)
                if drawn is None:
                    return True
                task = drawn
            seat.running[seat.actor.run.remote(phase, task)] = task

    def _collect(
        self, seats: list[_Seat], phase: Phase, waiting: deque[Task], *, wait: bool
    ) -> Iterator[Outcome]:
        """Take what is finished; tasks of a dead worker go back to the queue."""
        running = [reference for seat in seats for reference in seat.running]
        ready, _ = ray.wait(running, num_returns=1, timeout=None if wait else 0)
        for reference in ready:
            seat = next(item for item in seats if reference in item.running)
            task = seat.running[reference]
            try:
                outcome: Outcome = ray.get(reference)
            except ray.exceptions.RayActorError as error:
                yield from self._replace(seat, phase, task, waiting, error)
                continue
            del seat.running[reference]
            yield outcome

    def _replace(
        self,
        seat: _Seat,
        phase: Phase,
        task: Task,
        waiting: deque[Task],
        error: Exception,
    ) -> Iterator[Outcome]:
        """Hire a new worker, and try again what the dead one had, the first task blamed."""
        lost = list(seat.running.values())
        seat.running.clear()
        seat.actor = self._hire()
        attempts = self._attempts[phase, task.number] = (
            self._attempts.get((phase, task.number), 0) + 1
        )
        first = next(iter(lost))
        waiting.extend(item for item in lost if item is not first)
        if attempts <= self._execution.retries:
            waiting.appendleft(first)
            return
        reason = f"its worker died {attempts} times: {_first_line(error)}"
        yield Outcome(first.number, failure=Failure(reason, transient=True))

    def _hire(self) -> Any:
        """Start a worker that imports from where this process does."""
        environment = {
            "OMP_NUM_THREADS": str(self._execution.cpus_per_worker),
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        }
        remote = ray.remote(
            num_cpus=self._execution.cpus_per_worker,
            num_gpus=self._execution.gpus_per_worker,
            max_restarts=0,
            runtime_env={"env_vars": environment},
        )(Worker)
        return remote.remote(self._factory)

    def _await_workers(self) -> None:
        """Wait until every worker has loaded the subject; raise what stopped one as itself."""
        try:
            ray.get([seat.actor.load.remote() for seat in self._seats])
        except ray.exceptions.RayActorError as error:
            raise _cause_of(error) from error
        except ray.exceptions.RayTaskError as error:
            raise _cause_of(error) from error


def _connect(execution: Execution) -> bool:
    """Connect to Ray; True where it was started here."""
    if ray.is_initialized():
        _check_resources(execution)
        return False
    wanted = execution.workers * execution.cpus_per_worker
    quiet: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    try:
        if execution.address is None:
            with _quiet(_TOKEN_NOTICE):
                ray.init(num_cpus=wanted, **quiet)
        else:
            quiet.pop("include_dashboard")
            check_address(execution.address)
            ray.init(address=execution.address, **quiet)
    except Exception as error:  # Ray's own time-out is a bare Exception
        raise unreachable(execution.address, _first_line(error)) from error
    try:
        _check_resources(execution)
    except ExecutionError:
        ray.shutdown()
        raise
    return True


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger say no more than errors."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_resources(execution: Execution) -> None:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    found_cpus, found_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    wanted = execution.workers * execution.cpus_per_worker
    gpus = execution.workers * execution.gpus_per_worker
    if found_cpus < wanted or found_gpus < gpus:
        raise ExecutionError(
            f"execution: {execution.workers} workers need {wanted} CPUs and {gpus:g} GPUs; "
            f"Ray has {found_cpus:g} and {found_gpus:g}",
            hint="ask for fewer workers, or fewer cpus_per_worker or gpus_per_worker",
        )


def _cause_of(error: Exception) -> Exception:
    """The user's mistake behind a Ray error, if it is one."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, AutoquantError):
        return cause
    return ExecutionError(
        f"a worker could not start: {_last_line(error)}",
        hint="run with execution.kind=local to see the whole error",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1]
