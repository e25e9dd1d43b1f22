"""The history: one line for each record of a candidate, only ever appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoquant.core.measurement import Candidate
from autoquant.core.refusals import storage_errors
from autoquant.errors import PlanError
from autoquant.record.storage import damaged

_CHUNK = 2**16
_MISTAKES = (ValueError, KeyError, TypeError, AttributeError, PlanError)

_NOTHING: Mapping[str, Any] = {"plan": {}, "executed": {}}
"""Long, and as a rule the same in all lines of a number: later lines leave them out."""


class History:
    """Appends candidates to `history.jsonl`, each on disk before `append` returns.

    Opening repairs what a crash left: a torn last line is cut off, a last line that only lacks
    its newline gets it. It reads no more than the last line.

    Args:
        path: The file; made if needed.

    Raises:
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path, "write"):
            path.touch()
            _repair(path)
            self._file = path.open("ab")
        self._written: dict[int, Candidate] = {}

    def append(self, candidate: Candidate) -> None:
        """Write one line and wait until it is on disk.

        Raises:
            StorageError: The disk is full or fails; the file is left as it was.
        """
        document = _without(candidate.to_json(), self._written.get(candidate.number), candidate)
        line = json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"
        with storage_errors(self._path, "write"):
            length = os.fstat(self._file.fileno()).st_size
            try:
                self._file.write(line.encode("utf-8"))
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError:
                self._reopen(length)
                raise
        self._written[candidate.number] = candidate

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
    found: dict[int, Candidate] = {}
    mistake = None
    with storage_errors(path, "read"), path.open("rb") as file:
        for index, line in enumerate(file):
            if mistake is not None:
                raise damaged(path, mistake)
            try:
                candidate = _read_line(line, found)
            except _NotACandidateError as error:
                mistake = f"line {index + 1}: {error}"
            else:
                found[candidate.number] = candidate
    return tuple(found[number] for number in sorted(found))


def _without(
    document: dict[str, Any], before: Candidate | None, candidate: Candidate
) -> dict[str, Any]:
    """Leave out what an earlier line of the same number says already."""
    if before is None or before.plan != candidate.plan or before.executed != candidate.executed:
        return document
    return {name: value for name, value in document.items() if name not in _NOTHING}


def _repair(path: Path) -> None:
    """End the file with a whole line."""
    start, line = _last_line(path)
    if not line:
        return
    try:
        _check_line(line)
    except _NotACandidateError:
        os.truncate(path, start)
    else:
        if not line.endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")


def _last_line(path: Path) -> tuple[int, bytes]:
    """Where the last line starts, and what it holds; a newline at its end included."""
    with path.open("rb") as file:
        end = start = file.seek(0, os.SEEK_END)
        tail = b""
        while start and b"\n" not in tail[:-1]:
            start = max(0, start - _CHUNK)
            file.seek(start)
            tail = file.read(end - start)
        line = tail[tail[:-1].rfind(b"\n") + 1 :]
    return end - len(line), line


class _NotACandidateError(ValueError):
    """A line does not hold a candidate."""


def _check_line(line: bytes) -> None:
    """Whether a line is whole; what it leaves out is on an earlier one."""
    try:
        Candidate.from_json({**_NOTHING, **json.loads(line)})
    except _MISTAKES as error:
        raise _NotACandidateError(str(error)) from error


def _read_line(line: bytes, found: Mapping[int, Candidate]) -> Candidate:
    try:
        data = json.loads(line)
        if "plan" in data:
            return Candidate.from_json(data)
        before = found[data["number"]]
        candidate = Candidate.from_json({**data, **_NOTHING})
    except _MISTAKES as error:
        raise _NotACandidateError(str(error)) from error
    return replace(candidate, plan=before.plan, executed=before.executed)
