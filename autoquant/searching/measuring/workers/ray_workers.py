"""Evaluations on Ray workers: one actor each, replaced when its process dies or is stuck."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from autoquant.core.evaluation import (
    EvaluatorFactory,
    IsOver,
    Outcome,
    Phase,
    Task,
    never,
)
from autoquant.core.measurement import Failure
from autoquant.core.secrets import masked_line
from autoquant.errors import AutoquantError, ExecutionError
from autoquant.job import Execution
from autoquant.searching.measuring.workers.ray_connection import (
    connect,
    is_alive,
    leave,
    lost_a_process,
)
from autoquant.searching.measuring.workers.ray_worker import Hiring, Place, alive_nodes, last_line
from autoquant.searching.measuring.workers.time_limits import TimeLimits

import ray  # isort: skip  # after the environment that ray_connection sets

_IN_FLIGHT = 2
_POLL_S = 0.5
_ALIVE_S = 5.0
_GONE_S = 20.0
"""A head that restarts is waited for; at sixty seconds Ray would end this process."""

_LOADING_S = 600.0
"""What a worker that a node has taken in may take to load the model."""

_NODE_S = 10.0
"""A node that ended takes Ray so long to tell from a worker that ended."""

_SAID_S = 15.0
"""Workers that are missing for so long are said to be."""


@dataclass(slots=True)
class _Seat:
    """A place for a worker, what it is doing, oldest first, and since when.

    Attributes:
        actor: The worker.
        is_timed: Whether it takes the times.
        arrived: What it answers once a node has taken it in.
        loading: What it answers once it is there and has loaded; None: it has.
        place: Where it is, or was last.
        running: What it was given, by what answers.
        since: When it began with the first of them, or was hired.
    """

    actor: Any
    is_timed: bool
    arrived: Any
    loading: Any
    place: Place | None = None
    running: dict[Any, Task] = field(default_factory=dict)
    since: float = 0.0

    @property
    def is_loading(self) -> bool:
        """Whether a node has taken the worker in, and it is not ready yet."""
        return self.loading is not None and bool(ray.wait([self.arrived], timeout=0)[0])


class RayExecutor:
    """Spreads tasks over actors, and retries those whose worker died.

    Args:
        factory: Gives a worker its evaluator.
        execution: Address, workers, resources of each, retries, time limit.
        note: Told when there are fewer workers than asked for, and when they are back.
        cpu: Model of the CPU on which times are taken; None: of whichever comes first.

    Raises:
        ExecutionError: Ray cannot be reached, or has fewer resources than asked for.
        AutoquantError: What the factory raised in a worker.
    """

    def __init__(
        self,
        factory: EvaluatorFactory,
        execution: Execution,
        note: Callable[[str], None] = lambda text: None,
        cpu: str | None = None,
    ) -> None:
        self._execution = execution
        self._note = note
        self._owns_ray = connect(execution)
        self._attempts: dict[tuple[Phase, int], int] = {}
        self._limits = TimeLimits(execution.timeout, time.monotonic)
        self._seen_alive = time.monotonic()
        self._few_since: float | None = None
        self._is_few_said = False
        self._cpu = cpu
        self._seats: list[_Seat] = []
        try:
            self._hiring = Hiring(execution, ray.put(factory))
            for number in range(execution.workers):
                self._seats.append(self._hire(is_timed=number == 0))
            self._await_workers()
        except BaseException:
            self.close()
            raise

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        """Give the outcomes as they come; a timed phase keeps all but one worker idle."""
        is_timed = phase.is_timed
        seats = self._seats[:1] if is_timed else self._seats
        depth = 1 if is_timed else _IN_FLIGHT
        source, waiting = iter(tasks), deque[Task]()
        drained = False
        if is_timed:
            self._let_others_load()
        try:
            while not is_over():
                self._look_who_is_there(seats)
                drained = self._fill(seats, depth, phase, source, waiting, drained)
                if any(seat.running for seat in seats):
                    yield from self._collect(seats, phase, waiting)
                elif drained and not waiting:
                    return
                else:
                    self._wait_for_workers(seats)
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
        there = [seat for seat in seats if seat.loading is None]
        while True:
            seat = min(there, key=lambda item: len(item.running), default=None)
            if seat is None or len(seat.running) >= depth:
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
        attempts = self._attempts.get((phase, task.number), 0) + 1
        is_last = attempts > self._execution.retries
        if self._is_node_lost(seat, _NODE_S if is_last else 0.0):
            attempts, is_last = attempts - 1, False
        self._attempts[phase, task.number] = attempts
        first = self._renew(seat, waiting)
        if not is_last:
            waiting.appendleft(first)
            return
        reason = f"its worker died {attempts} times: {masked_line(error)}"
        yield Outcome(first.number, failure=Failure(reason, transient=True))

    def _is_node_lost(self, seat: _Seat, wait_s: float) -> bool:
        """Whether it was the node that died, and no task is to blame; Ray may need a while."""
        ends = self._limits.clock() + wait_s
        while seat.place is not None:
            if seat.place.node not in alive_nodes():
                return True
            if self._execution.address is None or self._limits.clock() >= ends:
                return False
            time.sleep(_POLL_S)
        return False

    def _stop_when_stuck(
        self, seat: _Seat, phase: Phase, waiting: deque[Task]
    ) -> Iterator[Outcome]:
        """Stop a worker whose task takes too long."""
        if not seat.running:
            return
        if self._limits.clock() - seat.since <= self._limits.limit_s(phase):
            return
        ray.kill(seat.actor)
        first = self._renew(seat, waiting)
        failure = Failure(self._limits.reason(phase), transient=True)
        yield Outcome(first.number, failure=failure)

    def _renew(self, seat: _Seat, waiting: deque[Task]) -> Task:
        """Hire a new worker; all but its first task, which is given, go back to the queue."""
        first, *others = seat.running.values()
        waiting.extend(others)
        self._refill(seat)
        return first

    def _free(self, seat: _Seat) -> None:
        """Replace a worker whose work nobody waits for any more: it would delay the next."""
        if seat.running and self._seats:
            ray.kill(seat.actor)
            self._refill(seat)

    def _refill(self, seat: _Seat) -> None:
        """Hire another worker for a seat."""
        hired = self._hire(is_timed=seat.is_timed)
        seat.actor, seat.arrived = hired.actor, hired.arrived
        seat.loading, seat.since = hired.loading, hired.since
        seat.running.clear()

    def _hire(self, *, is_timed: bool) -> _Seat:
        actor = self._hiring.hire(is_timed=is_timed)
        arrived, loading = actor.arrive.remote(), actor.load.remote()
        return _Seat(actor, is_timed, arrived, loading, since=self._limits.clock())

    def _look_who_is_there(self, seats: list[_Seat]) -> None:
        """Take in the workers that have loaded, and say where some are missing for long.

        Raises:
            ExecutionError: Times would be taken on another kind of CPU than before.
        """
        for seat in seats:
            if seat.loading is not None and ray.wait([seat.loading], timeout=0)[0]:
                self._seat(seat)
        now = self._limits.clock()
        missing = sum(seat.loading is not None for seat in seats)
        if not missing:
            if self._is_few_said:
                self._note(f"all {len(seats)} workers are there again")
            self._few_since, self._is_few_said = None, False
            return
        if self._few_since is None:
            self._few_since = now
        elif now - self._few_since > _SAID_S and not self._is_few_said:
            self._is_few_said = True
            left = len(seats) - missing
            self._note(
                f"{missing} of {len(seats)} workers are gone, and no node has room for others; "
                + (
                    f"going on with {left}, and with those that come"
                    if left
                    else f"waiting for one, {self._execution.wait:g} s at most (execution.wait)"
                )
            )

    def _seat(self, seat: _Seat) -> None:
        """Take in a worker that has loaded; one that died while loading is hired anew."""
        try:
            place: Place = ray.get(seat.loading)
        except ray.exceptions.RayActorError:
            self._seen_alive = 0.0
            self._refuse_dead_ray()
            self._refill(seat)
            return
        except ray.exceptions.RayError as error:
            cause = _cause_of(error)
            raise ExecutionError(cause.message, hint=cause.hint) from error
        seat.loading, seat.place, seat.since = None, place, self._limits.clock()
        if seat.is_timed:
            if self._cpu not in (None, place.cpu):
                raise ExecutionError(
                    f"times of two kinds of CPU cannot be compared: the first were taken on "
                    f"{self._cpu}, and the worker is on {place.cpu} now ({place.host})",
                    hint="name one kind of node by execution.target",
                )
            self._cpu = place.cpu

    def _wait_for_workers(self, seats: list[_Seat]) -> None:
        """Wait a little for any worker; once that took too long, give up."""
        self._refuse_dead_ray()
        ray.wait([seat.loading for seat in seats if seat.loading is not None], timeout=_POLL_S)
        now, wait = self._limits.clock(), self._execution.wait
        if self._few_since is None or now - self._few_since <= wait:
            return
        if not any(seat.is_loading and now - seat.since <= wait + _LOADING_S for seat in seats):
            what = "the target node" if seats[0].is_timed and len(seats) == 1 else "every worker"
            raise ExecutionError(
                f"{what} is lost, and none came in its place for {wait:g} s (execution.wait)",
                hint="bring a node back, then go on with --resume; what is finished is kept",
            )

    def _let_others_load(self) -> None:
        """Before times are taken, let workers that came late finish loading: it takes a CPU."""
        ends = self._limits.clock() + _LOADING_S
        while self._limits.clock() < ends:
            busy = [seat.loading for seat in self._seats if seat.is_loading]
            if not busy or ray.wait(busy, timeout=_POLL_S)[0]:
                break

    def _refuse_dead_ray(self) -> None:
        """Look at Ray's processes, and now and then whether it answers."""
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

    def _await_workers(self) -> None:
        """Wait until every worker has loaded the subject; raise what stopped one as itself."""
        for seat in self._seats:
            retries = self._execution.retries
            while not self._has_loaded(seat, retries):
                retries -= 1
                self._refill(seat)
            self._seat(seat)

    def _has_loaded(self, seat: _Seat, retries: int) -> bool:
        """Wait for one worker; False where its process died, and another may be hired."""
        try:
            ray.get(seat.loading)
        except ray.exceptions.RayActorError as error:
            if not retries:
                raise _cause_of(error) from error
            return False
        except ray.exceptions.RayError as error:
            raise _cause_of(error) from error
        return True


def _cause_of(error: Exception) -> AutoquantError:
    """The user's mistake behind a Ray error, if it is one."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, AutoquantError):
        return cause
    return ExecutionError(
        f"a worker could not start: {last_line(error)}",
        hint="run with execution.kind=local to see the whole error",
    )
