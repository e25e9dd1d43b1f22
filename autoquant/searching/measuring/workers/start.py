"""The executor that a job asks for."""

from __future__ import annotations

from collections.abc import Callable

from autoquant.core.evaluation import EvaluatorFactory, Executor
from autoquant.job import Execution
from autoquant.searching.measuring.workers.local import LocalExecutor
from autoquant.searching.measuring.workers.resources import refuse_too_little


def check_executor(execution: Execution) -> None:
    """See whether the cluster that a job names takes us; before any expensive work.

    A Ray of this search's own has the CPUs that it is given, and the machine's GPUs.

    Raises:
        ExecutionError: Nobody answers there, it refuses, or there is too little.
    """
    if execution.kind != "ray":
        return
    if execution.address is None:
        import torch

        cpus = execution.workers * execution.cpus_per_worker
        refuse_too_little(execution, cpus, torch.cuda.device_count())
    else:
        from autoquant.searching.measuring.workers.ray_connection import probe

        probe(execution)


def start_executor(
    execution: Execution,
    factory: EvaluatorFactory,
    note: Callable[[str], None] = lambda text: None,
    cpu: str | None = None,
) -> Executor:
    """Start the executor that a job asks for."""
    if execution.kind == "local":
        return LocalExecutor(factory, execution.timeout)
    from autoquant.searching.measuring.workers.ray_workers import RayExecutor

    return RayExecutor(factory, execution, note, cpu)
