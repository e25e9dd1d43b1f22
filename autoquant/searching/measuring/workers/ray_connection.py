"""Reaching Ray: a private one on loopback, or the cluster that a job names; and its end."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from autoquant.core.secrets import masked, masked_line
from autoquant.errors import ExecutionError
from autoquant.job import Execution, TargetNode
from autoquant.searching.measuring.workers.resources import refuse_too_little

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import ray  # reads the environment when imported
from ray._private import ray_constants
from ray._private.node import Node
from ray._raylet import GcsClient  # type: ignore[attr-defined]

_QUIET: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "configure_logging": False,
}
_NONE_IDLE = {"prestart_worker_first_driver": False, "enable_worker_prestart": False}
"""Processes that Ray starts ahead lack our workers' environment: nobody would ever take one."""

_NEEDLESS = ("start_log_monitor", "start_monitor", "start_api_server")
"""Read what workers print, add nodes, answer pages; Ray has no option against them."""

_TOKEN_NOTICE = "ray._private.authentication.authentication_token_setup"
"""Logs at every start, as a warning, that Ray keeps strangers out of the cluster."""

_PROBE_S = 3.0


def connect(execution: Execution) -> bool:
    """Connect to Ray; True where it was started or connected here.

    Raises:
        ExecutionError: It cannot be reached, refuses, or has fewer resources than asked for.
    """
    if ray.is_initialized():
        _check_resources(execution)
        return False
    try:
        with _sigterm_kept():
            if execution.address is None:
                _start(execution)
            else:
                _join(execution.address)
    except ExecutionError:
        raise
    except Exception as error:  # Ray's own time-out is a bare Exception
        raise _refused(execution.address, error) from error
    try:
        _check_resources(execution)
    except ExecutionError:
        ray.shutdown()
        raise
    return True


def probe(execution: Execution) -> None:
    """Join the cluster that a job names, and leave it.

    Raises:
        ExecutionError: It cannot be reached, refuses, or has fewer resources than asked for.
    """
    if connect(execution):
        ray.shutdown()


def lost_a_process() -> bool:
    """Whether a process of the Ray that was started here has ended.

    Ray itself may say that its node lives for half a minute more, and a call to it waits as long.
    """
    node = ray._private.worker._global_node
    return node is not None and not node.remaining_processes_alive()


def living_nodes() -> list[dict[str, Any]]:
    """What Ray says of the nodes that live."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def is_alive() -> bool:
    """Whether Ray's head answers and a node of it lives; asked outside of Ray, which waits."""
    try:
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
        return bool(living_nodes())
    except Exception:  # noqa: BLE001  # whatever it raises, it is not there
        return False


def leave() -> None:
    """Disconnect, whether Ray still answers or not."""
    with suppress(Exception), _sigterm_kept():
        ray.shutdown()


def _start(execution: Execution) -> None:
    """Start a Ray of this search's own, whatever runs on the machine, on loopback alone."""
    with _quiet(_TOKEN_NOTICE), _on_loopback(), _without_needless():
        ray.init(
            address="local",
            num_cpus=execution.workers * execution.cpus_per_worker,
            include_dashboard=False,
            _system_config=_NONE_IDLE,
            **_QUIET,
        )


def _join(address: str) -> None:
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise ExecutionError(
            f"execution.address: {masked(address)} needs Ray's client, which is not installed",
            hint='pip install "ray[client]", or give host:port without ray://',
        )
    check_address(address)
    if not address.startswith("ray://") and ":" in address:
        GcsClient(address=address)  # says at once what ray.init takes for silence: a wrong token
    ray.init(address=address, **_QUIET)


def _refused(address: str | None, error: Exception) -> ExecutionError:
    """What a cluster refuses that answers: another version, a token."""
    text = str(error)
    where = masked(address) if address else "on this machine"
    if "ersion mismatch" in text:
        said = " ".join(masked(text).split())
        return ExecutionError(
            f"execution.address: Ray {where} has another version: {said}",
            hint="install the cluster's versions of ray and Python here, or ours there",
        )
    if any(word in text.lower() for word in ("authenticat", "token")):
        return ExecutionError(
            f"execution.address: Ray {where} refuses the token: {masked_line(error)}",
            hint="put the cluster's token into RAY_AUTH_TOKEN, or into the file that "
            "RAY_AUTH_TOKEN_PATH names, with RAY_AUTH_MODE=token",
        )
    return unreachable(address, masked_line(error))


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray bind to 127.0.0.1, as it does by itself on laptops' systems."""
    known = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = known


@contextmanager
def _without_needless() -> Iterator[None]:
    """Start none of the processes that poll beside what is timed, for nobody."""
    known = {name: getattr(Node, name) for name in _NEEDLESS if hasattr(Node, name)}
    for name in known:
        setattr(Node, name, lambda self, **options: None)
    try:
        yield
    finally:
        for name, start in known.items():
            setattr(Node, name, start)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Undo that Ray takes SIGTERM for itself, and ends the process at once."""
    known = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, known)


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
    refuse_too_little(execution, resources.get("CPU", 0.0), resources.get("GPU", 0.0))
    if execution.target is not None:
        _check_target(execution.target)


def _check_target(target: TargetNode) -> None:
    """See that a node of the cluster is the one that a job is timed on."""
    named, wanted = target.resource, target.label.items()
    for node in living_nodes():
        if named in node["Resources"] if named else wanted <= node.get("Labels", {}).items():
            return
    word = f"the resource {named!r}" if named else f"the labels {dict(wanted)}"
    raise ExecutionError(
        f"execution.target: no node of the cluster has {word}",
        hint="start one with `ray start --resources` or `--labels`, or correct the name",
    )


_CONNECT_SECONDS = 5


def check_address(address: str) -> None:
    """Connect once to `host:port` or `ray://host:port`; other forms (`auto`) pass.

    Raises:
        ExecutionError: Nobody answers.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise unreachable(address, str(error)) from error


def unreachable(address: str | None, reason: str) -> ExecutionError:
    """Say that Ray cannot be reached, or not be started."""
    return ExecutionError(
        masked(
            f"execution.address: Ray {address or 'on this machine'} cannot be reached: {reason}"
        ),
        hint="start it with `ray start --head`, correct the address, or leave it out",
    )
