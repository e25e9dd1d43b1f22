"""Whether Ray has as much as a job's workers ask for."""

from __future__ import annotations

from autoquant.errors import ExecutionError
from autoquant.job import Execution


def refuse_too_little(execution: Execution, cpus: float, gpus: float) -> None:
    """See that workers find their CPUs and GPUs."""
    wanted = execution.workers * execution.cpus_per_worker
    wanted_gpus = execution.workers * execution.gpus_per_worker
    if cpus < wanted or gpus < wanted_gpus:
        raise ExecutionError(
            f"execution: {execution.workers} workers need {wanted} CPUs and {wanted_gpus:g} GPUs; "
            f"Ray has {cpus:g} and {gpus:g}",
            hint="ask for fewer workers, or fewer cpus_per_worker or gpus_per_worker",
        )
