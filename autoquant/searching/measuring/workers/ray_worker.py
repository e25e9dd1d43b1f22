"""One worker on Ray: what it does, and where it is started with what."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoquant.core.evaluation import Evaluator, Outcome, Phase, Task
from autoquant.core.secrets import masked
from autoquant.errors import AutoquantError, ExecutionError
from autoquant.job import Execution
from autoquant.model.data.entry_points import FILES, TRAVELLED
from autoquant.results.environment import describe_machine
from autoquant.searching.measuring.workers.local import run_safely
from autoquant.searching.measuring.workers.ray_connection import living_nodes
from autoquant.searching.measuring.workers.travelling import travelling_environment

import ray  # isort: skip  # after the environment that ray_connection sets


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs.

    Attributes:
        node: Ray's name for it.
        host: Its name and address.
        cpu: Model of its CPU.
        load: Of the machine, over the last minute.
    """

    node: str
    host: str
    cpu: str
    load: float | None


class Worker:
    """One evaluator in a process of its own.

    Args:
        factory: Reference of what gives it, in a list: it is fetched where errors can be told.
    """

    def __init__(self, factory: Sequence[Any]) -> None:
        self._factory = factory[0]
        self._evaluator: Evaluator | None = None

    def arrive(self) -> None:
        """Answer; it is asked first, and answers as soon as a node has taken the worker in."""

    def load(self) -> Place:
        """Load the subject, raising what the factory raises; a constructor would lose it."""
        place = here()
        use_travelled_files()
        with missing_named():
            try:
                self._evaluator = ray.get(self._factory)()
            except AutoquantError as error:
                error.args = (f"{error.message} (on node {place.host})",)
                error.message = error.args[0]
                raise
        return place

    def run(self, phase: Phase, task: Task) -> Outcome:
        """Do one phase of one task."""
        if self._evaluator is None:
            raise RuntimeError("a task came before the subject was loaded")
        return run_safely(self._evaluator, phase, task)


@dataclass(frozen=True, slots=True)
class Hiring:
    """How workers are started."""

    execution: Execution
    factory: Any

    def hire(self, *, is_timed: bool) -> Any:
        """Start a worker; it exists once some node has room.

        Args:
            is_timed: Whether it is the one that takes times: on the target node.
        """
        options = on_target(self.execution) if is_timed else {}
        remote = ray.remote(
            num_cpus=self.execution.cpus_per_worker,
            num_gpus=self.execution.gpus_per_worker,
            max_restarts=0,
            runtime_env=worker_environment(self.execution),
            **options,
        )(Worker)
        return remote.remote([self.factory])


def worker_environment(execution: Execution) -> dict[str, Any]:
    """Threads, and where to import from: on another machine, from what travels there."""
    variables = {"OMP_NUM_THREADS": str(execution.cpus_per_worker)}
    if execution.address is None:
        places = (path or str(Path.cwd()) for path in sys.path)
        return {"env_vars": {**variables, "PYTHONPATH": os.pathsep.join(places)}}
    travels = travelling_environment(execution.files, execution.packages)
    return {**travels, "env_vars": variables}


@contextmanager
def missing_named() -> Iterator[None]:
    """Name the node and the module where one cannot be imported."""
    try:
        yield
    except ImportError as error:
        raise ExecutionError(
            f"node {here().host} lacks what the job needs: {error}",
            hint="install it there, or name it in execution.packages",
        ) from error


def use_travelled_files() -> None:
    """Let entry points be read from what came to this node, where anything did."""
    if Path(FILES).is_dir():
        os.environ[TRAVELLED] = str(Path(FILES).resolve())


def on_target(execution: Execution) -> dict[str, Any]:
    """Where times are taken: the named kind of node, else the driver's own if it has room."""
    target = execution.target
    if target is not None:
        if target.resource is not None:
            return {"resources": {target.resource: 0.001}}
        return {"label_selector": dict(target.label)}
    own = driver_node(execution)
    if own is None:
        return {}
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(own, soft=False)}


def driver_node(execution: Execution) -> str | None:
    """The node of this process, where it can have a worker; None: it cannot, or is no node."""
    own = ray.get_runtime_context().get_node_id()
    for node in living_nodes():
        if node["NodeID"] == own:
            return own if node["Resources"].get("CPU", 0) >= execution.cpus_per_worker else None
    return None


def alive_nodes() -> frozenset[str]:
    """Names of the nodes that live."""
    return frozenset(node["NodeID"] for node in living_nodes())


def here() -> Place:
    """Where this process runs."""
    context = ray.get_runtime_context()
    facts = describe_machine()
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return Place(context.get_node_id(), f"{facts['host']} ({address})", facts["cpu"], facts["load"])


def last_line(error: Exception) -> str:
    """The last line of what Ray says, without passwords."""
    return masked(str(error).strip().rsplit("\n", 1)[-1])
