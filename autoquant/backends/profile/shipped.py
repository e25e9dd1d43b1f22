"""The descriptions that come with autoquant."""

from __future__ import annotations

from pathlib import Path

from autoquant.errors import JobError
from autoquant.job.shipped import shipped_folders

PROFILES = "accelerators"


def shipped_profiles() -> dict[str, str]:
    """Texts of the files of accelerators, by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in _files()}


def find_profile(name: str, folder: Path = Path()) -> Path:
    """The description of an accelerator, by path (relative to `folder`) or by a shipped name.

    Raises:
        JobError: There is none.
    """
    shipped = {file.stem: file for file in _files()}
    for candidate in (folder / name, shipped.get(name)):
        if candidate is not None and candidate.is_file():
            return candidate.resolve()
    raise JobError(
        f"backend.profile: no file {folder / name}, and no shipped profile of that name",
        hint=f"give a path, or one of {', '.join(sorted(shipped))}",
    )


def _files() -> list[Path]:
    folders = shipped_folders(PROFILES)
    return [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
