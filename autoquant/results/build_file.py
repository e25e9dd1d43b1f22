"""`build.json`: what decides how plans are built."""

from __future__ import annotations

from pathlib import Path

from autoquant.core.build import BuildSettings
from autoquant.results.files import FORMAT
from autoquant.results.storage import read_document, well_formed, write_json


def write_build(path: Path, settings: BuildSettings) -> None:
    """Write the settings."""
    write_json(path, {"format": FORMAT, **settings.to_json()})


def read_build(path: Path) -> BuildSettings:
    """Read back what `write_build` wrote, here or in an earlier version.

    Raises:
        StorageError: The file is missing or damaged.
    """
    document = read_document(path)
    with well_formed(path):
        return BuildSettings.from_json(document)
