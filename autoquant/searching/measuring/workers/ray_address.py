"""Whether anybody listens at a Ray address, found out without Ray: it would try for minutes."""

from __future__ import annotations

import socket

from autoquant.core.secrets import masked
from autoquant.errors import ExecutionError

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
