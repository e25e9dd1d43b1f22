"""The history: one line for each record of a candidate, only ever appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from autoquant.core.measurement import Candidate
from autoquant.core.refusals import storage_errors
from autoquant.errors import PlanError
from autoquant.record.storage import damaged


class History:
    """Appends candidates to `history.jsonl`, each on disk before `append` returns.

    Opening repairs what a crash left: a torn last line is cut off, a last line that only lacks
    its newline gets it.

    Args:
        path: The file; made if needed.

    Raises:
        StorageError: The file cannot be written, or a line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path, "write"):
            path.touch()
            _repair(path)
            self._file = path.open("ab")

    def append(self, candidate: Candidate) -> None:
        """Write one line and wait until it is on disk.

        Raises:
            StorageError: The disk is full or fails; the file is left as it was.
        """
        line = json.dumps(candidate.to_json(), ensure_ascii=False, separators=(",", ":")) + "\n"
        with storage_errors(self._path, "write"):
            length = os.fstat(self._file.fileno()).st_size
            try:
                self._file.write(line.encode("utf-8"))
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError:
                self._reopen(length)
                raise

    def close(self) -> None:
        """Close the file; may be called again."""
        with suppress(OSError):
            self._file.close()

    def _reopen(self, length: int) -> None:
        """Drop what a failed write left in the buffer and in the file."""
        self.close()
        os.truncate(self._path, length)
        self._file = self._path.open("ab")


def read_history(path: Path) -> tuple[Candidate, ...]:
    """Read all candidates, by number; of several lines of one number the last counts.

    A torn last line, which a crash leaves, is passed over; a missing file is an empty history.

    Raises:
        StorageError: The file cannot be read, or a line before the last is damaged.
    """
    if not path.exists():
        return ()
    with storage_errors(path, "read"):
        content = path.read_bytes()
    found = {candidate.number: candidate for candidate, _ in _parse(path, content)}
    return tuple(found[number] for number in sorted(found))


def _repair(path: Path) -> None:
    """End the file with a whole line."""
    content = path.read_bytes()
    end = max((end for _, end in _parse(path, content)), default=0)
    if end > len(content):
        with path.open("ab") as file:
            file.write(b"\n")
    elif end < len(content):
        os.truncate(path, end)


def _parse(path: Path, content: bytes) -> Iterator[tuple[Candidate, int]]:
    """Give each candidate with the position after its line, newline included."""
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    end = 0
    for index, line in enumerate(lines):
        end += len(line) + 1
        try:
            yield _read_line(line), end
        except _NotACandidateError as error:
            if index < len(lines) - 1:
                raise damaged(path, f"line {index + 1}: {error}") from error


class _NotACandidateError(ValueError):
    """A line does not hold a candidate."""


def _read_line(line: bytes) -> Candidate:
    try:
        return Candidate.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, PlanError) as error:
        raise _NotACandidateError(str(error)) from error
