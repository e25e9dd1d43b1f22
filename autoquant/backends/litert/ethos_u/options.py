"""What a job may choose of Arm's NPUs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from autoquant.job.backend import BackendSettings


class EthosUSettings(BackendSettings):
    """The NPU: `ethos-u55-128`."""

    accelerator: Annotated[str, Field(min_length=1)] | None = None
