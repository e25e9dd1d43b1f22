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


def by_torch_fx(job: Job, command: str) -> Job:
    """Give a job whose model torch.fx traces, for a command that looks into torch's conversion.

    Raises:
        BackendError: The backend is another one, or the job asks for another capture.
    """
    needs_torch(job, command)
    if job.model is None or job.model.capture == FX:
        return job
    if job.model.capture != "auto":
        raise BackendError(
            f"{command} looks into the graph that torch converts, and model.capture is "
            f"{job.model.capture}",
            hint="leave model.capture out; check, compare and sensitivity work with this capture",
        )
    return job.model_copy(update={"model": job.model.model_copy(update={"capture": FX})})
