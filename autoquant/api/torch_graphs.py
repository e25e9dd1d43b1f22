"""Commands that read the graph which torch converts: other backends have none."""

from __future__ import annotations

from autoquant.backends.targets import TORCH
from autoquant.errors import BackendError
from autoquant.job import Job

FX = "fx"


def needs_torch(job: Job, command: str) -> None:
    """Refuse a job whose plans are not built by torch, before anything is loaded.

    Raises:
        BackendError: The backend is another one.
    """
    if job.backend.name != TORCH:
        raise BackendError(
            f"{command} looks into the graph that torch converts, and backend.name is "
            f"{job.backend.name}",
            hint="--set backend=auto shows the same plan on torch's engines",
        )


def needs_torch_graph(job: Job, command: str) -> None:
    """Refuse a job whose plans torch does not convert as a graph, before anything is loaded.

    Raises:
        BackendError: The backend is another one, or the model is not captured by torch.fx.
    """
    needs_torch(job, command)
    if job.model is not None and job.model.capture not in ("auto", FX):
        raise BackendError(
            f"{command} looks into the graph that torch converts, and model.capture is "
            f"{job.model.capture}",
            hint="compare, sensitivity and badcases work with this capture",
        )
