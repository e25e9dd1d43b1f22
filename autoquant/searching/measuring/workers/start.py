"""The executors, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoquant.core.evaluation import EvaluatorFactory, Executor
from autoquant.job import Execution
from autoquant.searching.measuring.workers.local import LocalExecutor


def _start_local(execution: Execution, factory: EvaluatorFactory) -> Executor:  # noqa: ARG001
    return LocalExecutor(factory)


def _start_ray(execution: Execution, factory: EvaluatorFactory) -> Executor:
    from autoquant.searching.measuring.workers.ray_workers import RayExecutor

    return RayExecutor(factory, execution)


_EXECUTORS: Mapping[str, Callable[[Execution, EvaluatorFactory], Executor]] = {
    "local": _start_local,
    "ray": _start_ray,
}


def check_executor(execution: Execution) -> None:
    """See whether the cluster that a job names takes us; before any expensive work.

    Raises:
        ExecutionError: Nobody answers there, or it refuses; with what it says.
    """
    if execution.kind == "ray" and execution.address is not None:
        from autoquant.searching.measuring.workers.ray_connection import probe

        probe(execution)


def start_executor(execution: Execution, factory: EvaluatorFactory) -> Executor:
    """Start the executor that a job asks for."""
    return _EXECUTORS[execution.kind](execution, factory)
