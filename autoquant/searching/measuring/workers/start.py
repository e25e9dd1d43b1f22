"""The executors, in one table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from autoquant.core.evaluation import EvaluatorFactory, Executor
from autoquant.errors import ExecutionError
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

    Of a Ray of this search's own, whether the machine has what the workers ask for.

    Raises:
        ExecutionError: Nobody answers there, it refuses, or there is too little.
    """
    if execution.kind != "ray":
        return
    if execution.address is None:
        gpus, found = execution.workers * execution.gpus_per_worker, torch.cuda.device_count()
        if gpus > found:
            raise ExecutionError(
                f"execution: {execution.workers} workers need "
                f"{execution.workers * execution.cpus_per_worker} CPUs and {gpus:g} GPUs; this "
                f"machine has {os.cpu_count()} and {found}",
                hint="ask for fewer workers, or fewer cpus_per_worker or gpus_per_worker",
            )
    else:
        from autoquant.searching.measuring.workers.ray_connection import probe

        probe(execution)


def start_executor(execution: Execution, factory: EvaluatorFactory) -> Executor:
    """Start the executor that a job asks for."""
    return _EXECUTORS[execution.kind](execution, factory)
