"""The executors, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoquant.core.evaluation import EvaluatorFactory, Executor
from autoquant.job import Execution
from autoquant.searching.measuring.workers.local import LocalExecutor
from autoquant.searching.measuring.workers.ray_address import check_address


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
    """See within seconds whether the executor can be reached; before any expensive work.

    Raises:
        ExecutionError: Nobody answers at the address.
    """
    if execution.kind == "ray" and execution.address is not None:
        check_address(execution.address)


def start_executor(execution: Execution, factory: EvaluatorFactory) -> Executor:
    """Start the executor that a job asks for."""
    return _EXECUTORS[execution.kind](execution, factory)
