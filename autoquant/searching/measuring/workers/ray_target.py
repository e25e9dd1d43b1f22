"""A computation on the node where everything is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from autoquant.errors import AutoquantError, ExecutionError
from autoquant.job import Execution
from autoquant.searching.measuring.workers.ray_connection import connect, leave
from autoquant.searching.measuring.workers.ray_worker import (
    last_line,
    missing_named,
    on_target,
    use_travelled_files,
    worker_environment,
)

import ray  # isort: skip  # after the environment that ray_connection sets

_Found = TypeVar("_Found")


def run_on_target(execution: Execution, function: Callable[..., _Found], *arguments: Any) -> _Found:
    """Call a function on the target node, with nothing of this search beside it there.

    Raises:
        ExecutionError: The node is lost, or lacks what the job needs.
        AutoquantError: What the function raised.
    """
    owns_ray = connect(execution)
    try:
        remote = ray.remote(
            num_cpus=execution.cpus_per_worker,
            runtime_env=worker_environment(execution),
            max_retries=execution.retries,
            **on_target(execution),
        )(_call)
        found: _Found = ray.get(remote.remote(function, [ray.put(arguments)]))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AutoquantError):
            raise error.cause from error
        raise ExecutionError(
            f"the target node could not measure: {last_line(error)}",
            hint="run with execution.kind=local there to see the whole error",
        ) from error
    except ray.exceptions.RayError as error:
        raise ExecutionError(
            f"the target node is lost: {last_line(error)}",
            hint="bring it back, then go on with --resume; what is finished is kept",
        ) from error
    finally:
        if owns_ray:
            leave()
    return found


def _call(function: Callable[..., Any], arguments: list[Any]) -> Any:
    use_travelled_files()
    with missing_named():
        return function(*ray.get(arguments[0]))
