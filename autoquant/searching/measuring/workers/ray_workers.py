"""Evaluations on Ray workers: one actor each, replaced when its process dies or is stuck."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoquant.core.evaluation import (
    Evaluator,
    EvaluatorFactory,
    IsOver,
    Outcome,
    Phase,
    Task,
    never,
)
from autoquant.core.measurement import Failure
from autoquant.core.secrets import masked
from autoquant.errors import AutoquantError, ExecutionError
from autoquant.job import Execution
from autoquant.searching.measuring.workers.local import run_safely
from autoquant.searching.measuring.workers.ray_connection import (
    connect,
    first_line,
    is_alive,
    leave,
    lost_a_process,
)
from autoquant.searching.measuring.workers.time_limits import TimeLimits

import ray  # isort: skip  # after the environment that ray_connection sets

_IN_FLIGHT = 2
_POLL_S = 0.5
_ALIVE_S = 5.0
_GONE_S = 20.0
"""A head that restarts is waited for; at sixty seconds Ray would end this process."""

_LOADING_S = 600.0
"""What a worker that was hired again may take more: it loads the model first."""


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
    """A place for a worker, what it is doing, oldest first, and since when."""

    actor: Any
    running: dict[Any, Task] = field(default_factory=dict)
    since: float = 0.0
    loading: Any = None


class RayExecutor:
    """Spreads tasks over actors, and retries those whose worker died.

    Args:
        factory: Gives a worker its evaluator.
        execution: Address, workers, resources of each, retries, time limit.

    Raises:
        ExecutionError: Ray cannot be reached, or has fewer resources than asked for.
        AutoquantError: What the factory raised in a worker.
    """

    def __init__(self, factory: EvaluatorFactory, execution: Execution) -> None:
        self._execution = execution
        self._owns_ray = connect(execution)
        self._factory = ray.put(factory)
        self._attempts: dict[tuple[Phase, int], int] = {}
        self._limits = TimeLimits(execution.timeout, time.monotonic)
        self._seen_alive = time.monotonic()
        self._seats: list[_Seat] = []
        try:
            self._seats = [_Seat(self._hire()) for _ in range(execution.workers)]
            self._await_workers()
        except BaseException:
            self.close()
            raise

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        """Give the outcomes as they come; a latency phase keeps all but one worker idle."""
        seats = self._seats[:1] if phase is Phase.LATENCY else self._seats
        depth = 1 if phase is Phase.LATENCY else _IN_FLIGHT
        source, waiting = iter(tasks), deque[Task]()
        drained = False
        try:
            while not is_over():
                drained = self._fill(seats, depth, phase, source, waiting, drained)
                if not any(seat.running for seat in seats):
                    if drained and not waiting:
                        return
                    continue
                yield from self._collect(seats, phase, waiting)
        finally:
            for seat in seats:
                self._free(seat)

    def close(self) -> None:
        """Stop the workers, and Ray where this executor started it."""
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats = []
        if self._owns_ray:
            leave()

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
            if not seat.running:
                seat.since = self._limits.clock()
            seat.running[seat.actor.run.remote(phase, task)] = task

    def _collect(self, seats: list[_Seat], phase: Phase, waiting: deque[Task]) -> Iterator[Outcome]:
        """Take what is finished; tasks of a dead worker go back to the queue."""
        running = [reference for seat in seats for reference in seat.running]
        ready, _ = ray.wait(running, num_returns=1, timeout=_POLL_S)
        self._refuse_dead_ray()
        for reference in ready:
            seat = next(item for item in seats if reference in item.running)
            task = seat.running[reference]
            try:
                outcome: Outcome = ray.get(reference)
            except (ray.exceptions.RayActorError, ray.exceptions.RayTaskError) as error:
                yield from self._replace(seat, phase, task, waiting, error)
                continue
            self._limits.learn(phase, self._limits.clock() - seat.since)
            del seat.running[reference]
            seat.since = self._limits.clock()
            yield outcome
        for seat in seats:
            yield from self._stop_when_stuck(seat, phase, waiting)

    def _replace(
        self,
        seat: _Seat,
        phase: Phase,
        task: Task,
        waiting: deque[Task],
        error: Exception,
    ) -> Iterator[Outcome]:
        """Hire a new worker, and try again what the dead one had, the first task blamed."""
        self._seen_alive = 0.0
        self._refuse_dead_ray()
        attempts = self._attempts[phase, task.number] = (
            self._attempts.get((phase, task.number), 0) + 1
        )
        first = self._renew(seat, waiting)
        if attempts <= self._execution.retries:
            waiting.appendleft(first)
            return
        reason = f"its worker died {attempts} times: {first_line(error)}"
        yield Outcome(first.number, failure=Failure(reason, transient=True))

    def _stop_when_stuck(
        self, seat: _Seat, phase: Phase, waiting: deque[Task]
    ) -> Iterator[Outcome]:
        """Stop a worker whose task takes too long; one that still loads has that time as well."""
        if not seat.running:
            return
        now = self._limits.clock()
        if seat.loading is not None and ray.wait([seat.loading], timeout=0)[0]:
            seat.loading, seat.since = None, now
        limit_s = self._limits.limit_s(phase)
        if now - seat.since <= (limit_s if seat.loading is None else limit_s + _LOADING_S):
            return
        ray.kill(seat.actor)
        first = self._renew(seat, waiting)
        failure = Failure(self._limits.reason(phase), transient=True)
        yield Outcome(first.number, failure=failure)

    def _renew(self, seat: _Seat, waiting: deque[Task]) -> Task:
        """Hire a new worker; all but its first task, which is given, go back to the queue."""
        first, *others = seat.running.values()
        seat.running.clear()
        waiting.extend(others)
        self._seat_anew(seat)
        seat.since = self._limits.clock()
        return first

    def _free(self, seat: _Seat) -> None:
        """Replace a worker whose work nobody waits for any more: it would delay the next."""
        if not (seat.running and self._seats):
            return
        seat.running.clear()
        ray.kill(seat.actor)
        self._seat_anew(seat)

    def _refuse_dead_ray(self) -> None:
        """Look at Ray's processes, and now and then whether it answers.

        Raises:
            ExecutionError: It does not.
        """
        now = self._limits.clock()
        lost = lost_a_process()
        if not lost and now - self._seen_alive < _ALIVE_S:
            return
        while lost or not is_alive():
            if self._limits.clock() - now > _GONE_S or self._execution.address is None:
                self._seats = []  # to stop them would wait for Ray
                leave()
                raise ExecutionError(
                    "Ray is gone: its processes ended, or its head cannot be reached any more",
                    hint="look at Ray's logs (out of memory?), then go on with --resume; what is "
                    "finished is kept",
                )
            time.sleep(_POLL_S)
        self._seen_alive = self._limits.clock()

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
        for seat in self._seats:
            seat.loading = seat.actor.load.remote()
        for seat in self._seats:
            retries = self._execution.retries
            while not self._has_loaded(seat, retries):
                retries -= 1
                self._seat_anew(seat)

    def _has_loaded(self, seat: _Seat, retries: int) -> bool:
        """Wait for one worker; False where its process died, and another may be hired."""
        try:
            ray.get(seat.loading)
        except ray.exceptions.RayTaskError as error:
            raise _cause_of(error) from error
        except ray.exceptions.RayActorError as error:
            if not retries:
                raise _cause_of(error) from error
            return False
        seat.loading = None
        return True

    def _seat_anew(self, seat: _Seat) -> None:
        seat.actor = self._hire()
        seat.loading = seat.actor.load.remote()


def _cause_of(error: Exception) -> Exception:
    """The user's mistake behind a Ray error, if it is one."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, AutoquantError):
        return cause
    return ExecutionError(
        f"a worker could not start: {_last_line(error)}",
        hint="run with execution.kind=local to see the whole error",
    )


def _last_line(error: Exception) -> str:
    return masked(str(error).strip().rsplit("\n", 1)[-1])
