"""Writing the file of an export: what refuses it is an error that names the file and the mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoquant.errors import StorageError

METADATA = "autoquant"
"""Under which name a file holds, as JSON, the plan, its digest and its measurements."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of a file, and write the file within."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"{path} cannot be written: {error}", hint="give a writable path"
        ) from error
