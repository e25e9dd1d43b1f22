"""`kernels.json`: whose kernel each op takes, where a search mixes engines."""

from __future__ import annotations

from pathlib import Path

from autoquant.core.kernels import Kernels
from autoquant.record.files import FORMAT
from autoquant.record.storage import damaged, read_json, well_formed, write_json


def write_kernels(path: Path, kernels: Kernels) -> None:
    """Write the choice.

    Raises:
        StorageError: The file cannot be written.
    """
    write_json(path, {"format": FORMAT, "kernels": kernels.to_json()})


def read_kernels(path: Path) -> Kernels:
    """Read back what `write_kernels` wrote.

    Raises:
        StorageError: The file is missing or damaged.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise damaged(path, "it is no JSON object")
    with well_formed(path):
        return Kernels.from_json(document["kernels"])
