"""What a job may choose of a described accelerator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from autoquant.job.backend import BackendSettings


class ProfileSettings(BackendSettings):
    """The file that describes the accelerator; a job cannot do without."""

    profile: Annotated[Path, Field(strict=False)]
