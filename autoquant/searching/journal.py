"""The study's journal: a file of entries, each whole or cut off, and what the disk refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoquant.core.refusals import storage_errors
from autoquant.errors import StorageError

Entry = Mapping[str, Any]


class Journal:
    """Appends entries to a file, those of one call on disk before it returns.

    Opening reads what is there, and cuts off a torn last line.

    Args:
        path: The file, in a folder that no other process writes; made if needed.

    Attributes:
        entries: What the file held when it was opened.

    Raises:
        StorageError: The file cannot be written, or a line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path, "write"):
            path.touch()
            found = list(_read_entries(path))
            os.truncate(path, found[-1][1] if found else 0)
        self.entries: tuple[Entry, ...] = tuple(entry for entry, _ in found)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries and wait until they are on disk.

        Raises:
            StorageError: The disk is full or fails; the file is left as it was.
        """
        lines = [json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries]
        with storage_errors(self._path, "write"):
            length = self._path.stat().st_size
            try:
                with self._path.open("ab") as file:
                    file.write("".join(lines).encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(self._path, length)
                raise


def _read_entries(path: Path) -> Iterator[tuple[Entry, int]]:
    """Give each entry with the position after its line; a torn last line is passed over."""
    position = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            position += len(line)
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or "op_code" not in entry:
                raise StorageError(
                    f"{path} is damaged: line {number} is no entry of a study",
                    hint="remove the file and go on with --resume: the same plans are asked for "
                    "again, and what was measured is kept",
                )
            yield entry, position
