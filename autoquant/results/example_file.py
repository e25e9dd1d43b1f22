"""The example input of a search: a few samples, to trace the model with again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from autoquant.results import files
from autoquant.results.storage import damaged, missing, write_bytes


def write_example(folder: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Keep the inputs by position (`"0"`, `"1"`...)."""
    write_bytes(
        folder / files.EXAMPLE,
        save({name: np.ascontiguousarray(item) for name, item in arrays.items()}),
    )


def read_example(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read them back.

    Raises:
        StorageError: The file is missing or damaged.
    """
    path = folder / files.EXAMPLE
    if not path.is_file():
        raise missing(path)
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
