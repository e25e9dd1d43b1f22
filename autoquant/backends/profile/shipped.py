"""The descriptions that come with autoquant."""

from __future__ import annotations

from pathlib import Path


def shipped_profiles() -> dict[str, str]:
    """Texts of the files of accelerators, by name."""
    package = Path(__file__).resolve().parents[2]
    folders = (package.parent / "accelerators", package / "accelerators")
    return {
        file.stem: file.read_text(encoding="utf-8")
        for folder in folders
        for file in sorted(folder.glob("*.yaml"))
    }
