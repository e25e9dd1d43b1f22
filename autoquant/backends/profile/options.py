"""What a job may choose of a described accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from autoquant.backends.profile.reading import find_profile
from autoquant.errors import StorageError
from autoquant.job.backend import MISSING_OPTION, BackendSettings


class ProfileSettings(BackendSettings):
    """The file that describes the accelerator; a job cannot do without."""

    profile: Annotated[Path, Field(strict=False)]

    @classmethod
    def resolve(cls, section: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        """Find the file, by path or as one that comes along."""
        name = section.get("profile")
        found = str(find_profile(name, folder)) if isinstance(name, str) else name
        return {**section, "profile": found}

    def build_options(self) -> dict[str, Any]:
        """The text of the file: workers elsewhere do not have it."""
        try:
            return {"profile": self.profile.read_text(encoding="utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(
                f"backend.profile: {self.profile} cannot be read: {error}"
            ) from error

    @model_validator(mode="before")
    @classmethod
    def _described(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("profile") is None:
            problem = PydanticCustomError(
                MISSING_OPTION, "is missing; name the YAML file that describes the accelerator"
            )
            raise ValidationError.from_exception_data(
                "backend", [InitErrorDetails(type=problem, loc=("profile",), input=None)]
            )
        return value
