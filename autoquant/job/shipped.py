"""Where files that come with autoquant are."""

from __future__ import annotations

from pathlib import Path


def shipped_folders(kind: str) -> tuple[Path, ...]:
    """Where files of a kind (`spaces`) may be: in a checkout, and in an installed package."""
    package = Path(__file__).resolve().parent.parent
    return (package.parent / kind, package / kind)
