"""Commands that read the graph which torch runs: other backends have none."""

from __future__ import annotations

from autoquant.core.backends import BY_TORCH
from autoquant.errors import BackendError
from autoquant.job import Setup


def needs_torch(setup: Setup, command: str) -> None:
    """Refuse a setup whose plans are not built by torch, before anything is loaded.

    Raises:
        BackendError: The backend is another one.
    """
    if setup.backend.name not in BY_TORCH:
        raise BackendError(
            f"{command} looks into the graph that torch runs, and backend.name is "
            f"{setup.backend.name}",
            hint="--set backend=auto shows the same plan on torch's engines",
        )
