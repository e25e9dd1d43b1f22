"""The descriptions that come with autoquant."""

from __future__ import annotations

from pathlib import Path

from autoquant.errors import JobError


def shipped_profiles() -> dict[str, Path]:
    """Files of accelerators, by name."""
    package = Path(__file__).resolve().parents[2]
    folders = (package.parent / "accelerators", package / "accelerators")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def find_profile(name: str, folder: Path = Path()) -> str:
    """Read a description by path (relative to `folder`) or by the name of a shipped one.

    Raises:
        JobError: There is none, or it cannot be read.
    """
    shipped = shipped_profiles()
    path = folder / name
    if not path.is_file():
        if name not in shipped:
            raise JobError(
                f"backend.profile: no file {name!r}, and no shipped accelerator of that name",
                hint=f"give a path, or one of {', '.join(shipped)}",
            )
        path = shipped[name]
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(
            f"backend.profile: {path} cannot be read: {error}", hint="give a readable file"
        ) from error
